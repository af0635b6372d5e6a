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
        let parsed = PasswordHash::new(kept);
        let is = parsed.is_ok_and(|it| Argon2::default().verify_password(shown.as_bytes(), &it).is_ok());
        give_memory_back();
        return is;
    }
    digest(kept).ct_eq(&digest(shown)).into()
}

/// Gives back to the system what a check has needed: glibc keeps it, once for each thread that it was needed in.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: it may be called at any time from any thread; what is in use stays as it is.
    unsafe {
        libc::malloc_trim(0);
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
