//! The admin password: hashed for the configuration, and checked.
//!
//! Unlike a key, a person has thought of it, so its hash is a slow one (Argon2id). A plain one is compared by
//! its digest, in a time that tells nothing. Checking a hash takes some 20 MB and tens of milliseconds of a
//! processor: nothing for a thread that streams wait for.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::digest;
use crate::config::PASSWORD_HASH;

/// Blocks of memory of this size, in bytes, are the system's own: less than a check needs, more than anything that
/// is allocated often.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 4 << 20;

/// The hash of a password, as the configuration takes it.
///
/// # Errors
/// When there is no randomness for the salt.
pub fn hash(password: &str) -> Result<String, String> {
    let hash: PasswordHash =
        Argon2::default().hash_password(password.as_bytes()).map_err(|e| e.to_string())?;
    Ok(hash.to_string())
}

/// Whether `shown` is the password that is `kept`, plain or as a hash.
pub fn is_right(kept: &SecretString, shown: &str) -> bool {
    let kept = kept.expose_secret();
    if kept.starts_with(PASSWORD_HASH) {
        do_not_keep_large_blocks();
        let parsed = PasswordHash::new(kept);
        return parsed.is_ok_and(|it| Argon2::default().verify_password(shown.as_bytes(), &it).is_ok());
    }
    digest(kept).ct_eq(&digest(shown)).into()
}

/// Has what a check needs go back to the system with its end. Without it, glibc takes a second block of this size
/// from the heap of the thread, and keeps it there: once for each thread that a check has run in.
fn do_not_keep_large_blocks() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: it may be called at any time from any thread; what is in use stays as it is.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_plain_and_by_its_hash() {
        let hash = hash("hunter2").unwrap();
        assert!(hash.starts_with("$argon2id$") && !hash.contains("hunter2"));
        for kept in ["hunter2", &hash] {
            let kept = SecretString::from(kept);
            assert!(is_right(&kept, "hunter2"));
            for wrong in ["", "hunter", "hunter22", &hash] {
                assert!(!is_right(&kept, wrong), "{wrong}");
            }
        }
        assert!(!is_right(&"$argon2id$torn".into(), "$argon2id$torn"));
    }
}
