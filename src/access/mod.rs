//! Access keys: what callers show to this proxy, and which accounts that opens to them.
//!
//! A key is 256 random bits, so a plain SHA-256 of it is enough: there is nothing to guess that a slow hash
//! would slow down. Only digests are stored and compared, all of them each time and without a
//! branch on their bytes, so that how long it takes tells nothing. Knows nothing of HTTP and of accounts but
//! their names.

pub mod password;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::files::{self, FileError, Watched};

/// What every key begins with: tells it from upstream tokens (`eyJ…`) and official keys (`sk-…`).
pub const PREFIX: &str = "tp-";

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// Its name, by which it is revoked; no two have the same.
    pub name: String,
    /// The SHA-256 of the key, in hexadecimal digits.
    pub sha256: String,
    /// The accounts that it opens, by name; empty for all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<String>,
    /// When it was made, in seconds since 1970; zero where nobody knows.
    #[serde(default)]
    pub created: u64,
}

/// The file of keys, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// All keys.
    pub keys: Vec<StoredKey>,
}

/// Who holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The same for the same key, and worth nothing to anybody.
    pub id: Arc<str>,
    /// The accounts that it opens, by name; empty for all of them.
    pub accounts: Arc<[String]>,
}

struct Key {
    digest: [u8; 32],
    holder: Holder,
}

/// The keys of a file, followed as it changes.
pub struct AccessKeys {
    file: Option<Watched<KeyFile, Vec<Key>>>,
}

impl AccessKeys {
    /// The keys in `path`; without one, nobody has a key, and as long as it is not there, neither.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn open(path: Option<&Path>) -> Result<AccessKeys, FileError> {
        Ok(AccessKeys { file: path.map(|path| Watched::expect(path, make)).transpose()? })
    }

    /// Whether there is a file of keys.
    pub fn are_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Who holds this key; `None` where it is none of ours.
    pub fn find(&self, shown: &str) -> Option<Holder> {
        let digest = digest(shown);
        let keys = self.file.as_ref()?.get();
        let mut found = u64::MAX;
        for (at, key) in keys.iter().enumerate() {
            found.conditional_assign(&(at as u64), key.digest.ct_eq(&digest));
        }
        keys.get(usize::try_from(found).ok()?).map(|key| key.holder.clone())
    }

    /// Reads the file again if it has changed.
    pub fn look(&self) {
        if let Some(file) = &self.file {
            file.look();
        }
    }
}

fn make(file: KeyFile) -> Result<Vec<Key>, String> {
    let mut names = HashSet::new();
    let make = |key: StoredKey| {
        let name = key.name.escape_debug().to_string();
        let digest = unhex(&key.sha256).ok_or_else(|| format!("the key {name} has no SHA-256"))?;
        if !names.insert(key.name) {
            return Err(format!("two keys have the name {name}"));
        }
        let id = format!("key-{}", &key.sha256[..16].to_ascii_lowercase());
        Ok(Key { digest, holder: Holder { id: id.into(), accounts: key.accounts.into() } })
    };
    file.keys.into_iter().map(make).collect()
}

/// Makes a key and adds it to the file at `path`, which is made if it is missing. Without a name it gets one.
///
/// # Errors
/// A name or account that is taken or no name, or a file that cannot be read or written.
pub fn add(
    path: &Path,
    name: Option<String>,
    accounts: Vec<String>,
) -> Result<(String, SecretString), FileError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| FileError::new(path, format!("there is no randomness: {e}")))?;
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let name = files::update(path, |file: &mut KeyFile| {
        let taken = |name: &str| file.keys.iter().any(|it| it.name == name);
        let name = match name {
            Some(name) if taken(&name) => return Err(format!("there is a key {name} already")),
            Some(name) => name,
            None => (1..).map(|n| format!("key-{n}")).find(|it| !taken(it)).unwrap_or_default(),
        };
        accounts.iter().chain([&name]).try_for_each(|it| files::check_name(it))?;
        let sha256 = digest(&key).iter().map(|byte| format!("{byte:02x}")).collect();
        file.keys.push(StoredKey { name: name.clone(), sha256, accounts, created });
        Ok(name)
    })?;
    Ok((name, key.into()))
}

/// Takes the key of this name out of the file at `path`.
///
/// # Errors
/// When there is none of that name, or the file cannot be read or written.
pub fn revoke(path: &Path, name: &str) -> Result<(), FileError> {
    if !path.exists() {
        return Err(FileError::new(path, "there is no such file"));
    }
    files::update(path, |file: &mut KeyFile| {
        let before = file.keys.len();
        file.keys.retain(|it| it.name != name);
        if file.keys.len() < before { Ok(()) } else { Err(format!("there is no key {name}")) }
    })
}

/// All keys in the file at `path`.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn list(path: &Path) -> Result<Vec<StoredKey>, FileError> {
    files::read::<KeyFile>(path).map(|it| it.keys)
}

/// The SHA-256 of a secret.
pub fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn a_key_is_found_until_it_is_revoked_and_the_file_does_not_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let (name, key) = add(&path, None, Vec::new()).unwrap();
        let (_, other) = add(&path, Some("bot".into()), vec!["a".into(), "b".into()]).unwrap();
        assert_eq!(name, "key-1");
        let key = key.expose_secret();
        assert!(key.starts_with("tp-") && key.len() == 46, "{}", key.len());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&key[3..]) && !text.contains(&other.expose_secret()[3..]));
        let keys = AccessKeys::open(Some(&path)).unwrap();
        let (one, two) = (keys.find(key).unwrap(), keys.find(other.expose_secret()).unwrap());
        assert!(one.accounts.is_empty() && one.id != two.id);
        assert_eq!(*two.accounts, ["a".to_owned(), "b".into()]);
        for wrong in ["", "tp-", &key[..45], &format!("{key}a"), &key.to_uppercase(), &key[3..]] {
            assert_eq!(keys.find(wrong), None, "{wrong}");
        }
        revoke(&path, "key-1").unwrap();
        keys.look();
        assert_eq!((keys.find(key), keys.find(other.expose_secret())), (None, Some(two)));
        assert!(revoke(&path, "key-1").unwrap_err().to_string().contains("there is no key key-1"));
        assert_eq!(list(&path).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_a_file_of_keys_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let unmade = AccessKeys::open(Some(&path)).unwrap();
        assert!(unmade.are_kept() && unmade.find("tp-").is_none());
        let digest = "ab".repeat(32);
        let twice =
            format!(r#"{{"keys":[{{"name":"a","sha256":"{digest}"}},{{"name":"a","sha256":"{digest}"}}]}}"#);
        for (text, why) in [
            ("", "line 1"),
            (r#"{"keys":[{"name":"a","sha256":"zz"}]}"#, "the key a has no SHA-256"),
            (&twice, "two keys have the name a"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = AccessKeys::open(Some(&path)).err().unwrap().to_string();
            assert!(error.contains(why) && error.contains("keys.json"), "{error}");
        }
        std::fs::write(&path, r#"{"keys":[]}"#).unwrap();
        assert!(add(&path, Some("a b".into()), Vec::new()).is_err());
        assert!(add(&path, Some("tp-x".into()), Vec::new()).is_err());
        assert!(add(&path, Some("a".into()), vec!["".into()]).is_err());
        assert!(list(&path).unwrap().is_empty());
        assert!(!AccessKeys::open(None).unwrap().are_kept());
    }
}
