//! The file of stored accounts, as an operator writes it, and what is wrong with one.

use std::collections::HashSet;
use std::path::Path;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, Watched};

/// The name of the account that is the browser's own sign-in.
pub const PAGE: &str = "page";

/// An account as it is written. It has no `Debug`: the token is in it.
#[derive(Clone, Serialize, Deserialize)]
pub struct StoredAccount {
    /// Its name; those without one are the ones that `PATCH /admin/tokens` replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The upstream token, without `Bearer`.
    pub token: String,
}

/// The file of accounts, as it is written.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct AccountFile {
    /// All accounts.
    pub accounts: Vec<StoredAccount>,
}

/// Names and tokens.
pub(super) type Named = Vec<(String, SecretString)>;

/// How many accounts `path` holds.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub fn count(path: &Path) -> Result<usize, FileError> {
    Ok(Watched::open(path, make)?.get().len())
}

/// Whether a header can carry this as a token.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|it| it.is_ascii_graphic())
}

/// The accounts of a file, each with a name.
pub(super) fn make(file: AccountFile) -> Result<Named, String> {
    let (mut names, mut unnamed) = (HashSet::new(), 0);
    let mut make = |StoredAccount { name, token }: StoredAccount| {
        let name = match name {
            Some(name) if name == PAGE => {
                return Err(format!("the name {PAGE} means the browser's own sign-in: take another"));
            }
            Some(name) => name,
            None => {
                unnamed += 1;
                format!("unnamed-{unnamed}")
            }
        };
        files::check_name(&name)?;
        let token = token.trim();
        let token = token.strip_prefix("Bearer ").unwrap_or(token);
        if !is_token(token) {
            return Err(format!("the account {name} has no token that a header can carry"));
        }
        if !names.insert(name.clone()) {
            return Err(format!("two accounts have the name {name}"));
        }
        Ok((name, token.to_owned().into()))
    };
    file.accounts.into_iter().map(&mut make).collect()
}
