//! Whose turn it is, who rests, and what a changed file changes.

use super::*;

fn stored(accounts: &[(&str, &str)]) -> AccountFile {
    let stored = |(name, token): &(&str, &str)| StoredAccount {
        name: (!name.is_empty()).then(|| name.to_string()),
        token: token.to_string(),
    };
    AccountFile { accounts: accounts.iter().map(stored).collect() }
}

fn accounts(names: &[&str]) -> Accounts {
    let file = stored(&names.iter().map(|it| (*it, "eyJ")).collect::<Vec<_>>());
    let all = make(file).unwrap().into_iter().map(Account::new).collect();
    Accounts { file: None, all: Mutex::new(all), leases: AtomicU64::new(0), homes: Homes::default() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|it| it.to_string()).collect()
}

#[test]
fn the_least_busy_is_lent_and_of_equals_the_one_that_waited_longest() {
    let now = Instant::now();
    let all = accounts(&["a", "b", "c"]);
    let lease = |open: &[&str]| all.lease(&names(open), now).unwrap();
    let mut held: Vec<_> = (0..3).map(|_| lease(&[])).collect();
    assert_eq!(held.iter().map(AccountLease::name).collect::<Vec<_>>(), ["a", "b", "c"]);
    drop(held.remove(1));
    assert_eq!(lease(&[]).name(), "b", "the others are busy");
    drop(held);
    let turns: Vec<_> = (0..4).map(|_| lease(&["c", "a"]).name().to_owned()).collect();
    assert_eq!(turns, ["a", "c", "a", "c"], "in turn, and no other");
    assert_eq!(all.lease(&names(&["d"]), now).unwrap_err(), NoAccount::Missing);
    assert!(all.states(now).iter().all(|it| it.running == 0), "all were given back");
}

#[test]
fn one_that_is_asked_too_much_rests_until_its_time() {
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    let all = accounts(&["a", "b"]);
    let (a, b) = (all.lease(&[], now).unwrap(), all.lease(&[], now).unwrap());
    a.rest(Some(Duration::from_secs(7)), now);
    assert_eq!(all.lease(&[], now).unwrap().name(), "b");
    b.rest(None, now);
    let refused = all.lease(&[], later(2)).unwrap_err();
    assert_eq!(refused, NoAccount::Resting(Duration::from_secs(5)));
    let fault = Fault::from(refused);
    assert_eq!((fault.kind(), fault.wait()), (FaultKind::AccountsResting, Some(Duration::from_secs(5))));
    assert_eq!(all.lease(&[], later(7)).unwrap().name(), "a");
    assert!(all.lease(&names(&["b"]), later(59)).is_err() && all.lease(&names(&["b"]), later(60)).is_ok());
    a.rest(Some(Duration::MAX), now);
    assert!(all.lease(&names(&["a"]), now + LONGEST_REST).is_ok());
}

#[test]
fn a_refused_token_is_not_used_until_there_is_another() {
    let now = Instant::now();
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
    let all = Accounts::open(Some(&path)).unwrap();
    let a = all.lease(&names(&["a"]), now).unwrap();
    a.refuse();
    a.rest(None, now);
    assert_eq!(all.lease(&names(&["a"]), now + LONGEST_REST).unwrap_err(), NoAccount::Refused);
    let other = all.lease(&[], now).unwrap();
    assert_eq!((other.name(), other.token().expose_secret()), ("unnamed-1", "eyJ2"));
    // Another one beside it does not make its token better.
    write(&[("a", "eyJ1"), ("b", "eyJ3"), ("", "eyJ2")]);
    all.look();
    let states = all.states(now);
    let shown: Vec<_> = states.iter().map(|it| (it.name.as_str(), it.running)).collect();
    assert_eq!(shown, [("a", 1), ("b", 0), ("unnamed-1", 1)]);
    assert_eq!(states[0].condition, Condition::Refused);
    write(&[("a", "eyJ4")]);
    all.look();
    assert_eq!(all.lease(&names(&["a"]), now).unwrap().token().expose_secret(), "eyJ4");
    drop((a, other));
    assert_eq!(all.states(now).len(), 1);
}

#[test]
fn a_conversation_stays_with_its_account() {
    let now = Instant::now();
    let all = accounts(&["a", "b"]);
    all.remember("one", "b");
    for _ in 0..3 {
        assert_eq!(all.lease_in("one", &[], now).unwrap().unwrap().name(), "b");
    }
    assert!(all.lease_in("two", &[], now).is_none() && all.lease_in("one", &names(&["a"]), now).is_none());
    all.lease(&names(&["b"]), now).unwrap().refuse();
    assert_eq!(all.lease_in("one", &[], now).unwrap().unwrap_err(), NoAccount::Refused);
    all.remember("one", "a");
    assert_eq!(all.lease_in("one", &[], now).unwrap().unwrap().name(), "a", "what was last counts");
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
    let all = Accounts::open(Some(&path)).unwrap();
    assert!(all.replace_unnamed(tokens(&["eyJ1"])).unwrap());
    let again = Accounts::open(Some(&path)).unwrap();
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
