//! Whose turn it is, who rests, and what a changed file changes.

use super::file::make;
use super::lease::LONGEST_REST;
use super::*;
use crate::store::Embedded;
use tokio::time::advance;

fn stored(accounts: &[(&str, &str)]) -> AccountFile {
    let stored = |(name, token): &(&str, &str)| StoredAccount {
        name: (!name.is_empty()).then(|| name.to_string()),
        token: token.to_string(),
    };
    AccountFile { accounts: accounts.iter().map(stored).collect() }
}

fn store() -> Arc<Embedded> {
    // Where nothing can be kept, it is kept in memory.
    Arc::new(Embedded::new("/nowhere/at/all".into(), 10))
}

fn accounts(names: &[&str]) -> Accounts {
    // Each has a token of its own: what is known of a token is known of all accounts with it.
    let tokens: Vec<_> = names.iter().map(|it| (*it, format!("eyJ-{it}"))).collect();
    let file = stored(&tokens.iter().map(|(name, token)| (*name, token.as_str())).collect::<Vec<_>>());
    let all = make(file).unwrap().into_iter().map(Account::new).collect();
    Accounts { all: Mutex::new(all), ..Accounts::open(None, store()).unwrap() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|it| it.to_string()).collect()
}

#[tokio::test]
async fn the_least_busy_is_lent_and_of_equals_the_one_that_waited_longest() {
    let all = accounts(&["a", "b", "c"]);
    let lease = async |open: &[&str]| all.lease(&names(open)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(lease(&[]).await);
    }
    assert_eq!(held.iter().map(AccountLease::name).collect::<Vec<_>>(), ["a", "b", "c"]);
    drop(held.remove(1));
    assert_eq!(lease(&[]).await.name(), "b", "the others are busy");
    drop(held);
    let mut turns = Vec::new();
    for _ in 0..4 {
        turns.push(lease(&["c", "a"]).await.name().to_owned());
    }
    assert_eq!(turns, ["a", "c", "a", "c"], "in turn, and no other");
    assert_eq!(all.lease(&names(&["d"])).await.unwrap_err(), NoAccount::Missing);
    assert!(all.states(now()).iter().all(|it| it.running == 0), "all were given back");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_asked_too_much_rests_until_its_time() {
    let seconds = Duration::from_secs;
    let all = accounts(&["a", "b"]);
    let (a, b) = (all.lease(&[]).await.unwrap(), all.lease(&[]).await.unwrap());
    a.rest(Some(seconds(7)));
    assert_eq!(all.lease(&[]).await.unwrap().name(), "b");
    b.rest(None);
    advance(seconds(2)).await;
    let refused = all.lease(&[]).await.unwrap_err();
    assert_eq!(refused, NoAccount::Resting(seconds(5)));
    let fault = Fault::from(refused);
    assert_eq!((fault.kind(), fault.wait()), (FaultKind::AccountsResting, Some(seconds(5))));
    advance(seconds(5)).await;
    assert_eq!(all.lease(&[]).await.unwrap().name(), "a");
    advance(seconds(52)).await;
    assert!(all.lease(&names(&["b"])).await.is_err());
    advance(seconds(1)).await;
    assert!(all.lease(&names(&["b"])).await.is_ok());
    a.rest(Some(Duration::MAX));
    assert!(all.lease(&names(&["a"])).await.is_err());
    advance(LONGEST_REST).await;
    assert!(all.lease(&names(&["a"])).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_used_until_there_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("accounts.json");
    let write = |accounts: &[(&str, &str)]| {
        files::update(&path, |file: &mut AccountFile| {
            *file = stored(accounts);
            Ok(())
        })
        .unwrap();
    };
    write(&[("a", "eyJ1"), ("", "Bearer eyJ2")]);
    let all = Accounts::open(Some(&path), store()).unwrap();
    let a = all.lease(&names(&["a"])).await.unwrap();
    a.refuse();
    a.rest(None);
    advance(LONGEST_REST).await;
    assert_eq!(all.lease(&names(&["a"])).await.unwrap_err(), NoAccount::Refused);
    let other = all.lease(&[]).await.unwrap();
    assert_eq!((other.name(), other.token().expose_secret()), ("unnamed-1", "eyJ2"));
    // Another one beside it does not make its token better.
    write(&[("a", "eyJ1"), ("b", "eyJ3"), ("", "eyJ2")]);
    all.look();
    let states = all.states(now());
    let shown: Vec<_> = states.iter().map(|it| (it.name.as_str(), it.running)).collect();
    assert_eq!(shown, [("a", 1), ("b", 0), ("unnamed-1", 1)]);
    assert_eq!(states[0].condition, Condition::Refused);
    write(&[("a", "eyJ4")]);
    all.look();
    assert_eq!(all.lease(&names(&["a"])).await.unwrap().token().expose_secret(), "eyJ4");
    drop((a, other));
    assert_eq!(all.states(now()).len(), 1);
}

#[tokio::test]
async fn a_conversation_stays_with_its_account_also_in_the_next_program() {
    let home = tempfile::tempdir().unwrap();
    let kept = Arc::new(Embedded::new(home.path().join("x"), 10));
    let all = Accounts { store: kept.clone(), ..accounts(&["a", "b"]) };
    all.remember("one", "b");
    for _ in 0..3 {
        assert_eq!(all.lease_in("one", &[]).await.unwrap().unwrap().name(), "b");
    }
    assert!(all.lease_in("two", &[]).await.is_none() && all.lease_in("one", &names(&["a"])).await.is_none());
    all.remember(&"x".repeat(65), "a");
    assert!(all.lease_in(&"x".repeat(65), &[]).await.is_none());
    all.settle().await;
    let next = Accounts { store: kept, ..accounts(&["a", "b"]) };
    next.lease(&names(&["b"])).await.unwrap().refuse();
    assert_eq!(next.lease_in("one", &[]).await.unwrap().unwrap_err(), NoAccount::Refused);
    next.remember("one", "a");
    assert_eq!(next.lease_in("one", &[]).await.unwrap().unwrap().name(), "a", "what was last counts");
}

#[test]
fn unnamed_ones_are_replaced_and_kept_where_there_is_a_file() {
    let tokens = |all: &[&str]| all.iter().map(|it| SecretString::from(*it)).collect();
    let all = accounts(&[]);
    assert!(!all.replace_unnamed(tokens(&["eyJ1", "eyJ2"])).unwrap());
    assert_eq!(all.states(Instant::now()).len(), 2);
    assert!(all.replace_unnamed(tokens(&["no token"])).is_err());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("accounts.json");
    std::fs::write(&path, r#"{"accounts":[{"name":"a","token":"eyJ0"},{"token":"eyJ9"}]}"#).unwrap();
    let all = Accounts::open(Some(&path), store()).unwrap();
    assert!(all.replace_unnamed(tokens(&["eyJ1"])).unwrap());
    let again = Accounts::open(Some(&path), store()).unwrap();
    let names: Vec<_> = again.states(Instant::now()).into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["a", "unnamed-1"]);
    assert!(!std::fs::read_to_string(&path).unwrap().contains("eyJ9"));
}

#[test]
fn what_cannot_be_meant_is_named_without_its_token() {
    for (accounts, why) in [
        (&[("a", "x"), ("a", "y")][..], "two accounts"),
        (&[("page", "x")], "own sign-in"),
        (&[("a", " ")], "no token"),
        (&[("a", "canary canary")], "no token"),
        (&[("unnamed-1", "x"), ("", "y")], "two accounts"),
        (&[("a b", "x")], "a name has"),
    ] {
        let error = make(stored(accounts)).err().unwrap();
        assert!(error.contains(why) && !error.contains("canary"), "{error}");
    }
}
