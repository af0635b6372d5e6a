//! A Redis that will not do: one clear line each, with the remedy and without the password.

use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tabproxy::config::RedisServer;
use tabproxy::practice::{Practice, PracticeArgs};
use tabproxy::store::{Memory, Redis};
use tokio::io::AsyncWriteExt;

use super::server::{RedisProgram, server};
use crate::program::Program;
use crate::rig::eventually;

/// What is said of the server at `url`.
async fn told(url: &str) -> String {
    said(&server(url)).await
}

async fn said(server: &RedisServer) -> String {
    let line = match Redis::probe(server).await {
        Ok(version) => format!("fine: {version}"),
        Err((what, remedy)) => format!("{what} — {remedy}"),
    };
    assert!(!line.contains("canary") && !line.contains('\n'), "{line}");
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_not_do_is_told_with_its_remedy() {
    let redis = RedisProgram::start().await;
    let (url, address) = (redis.url(), redis.addr.to_string());
    let fine = told(&url).await;
    assert!(fine.starts_with("fine: ") && fine.contains('.'), "{fine}");
    let wrong = told(&format!("redis://:canary-wrong@{address}")).await;
    assert!(
        wrong.contains(&address)
            && wrong.contains("refuses the password")
            && wrong.contains("TABPROXY_REDIS")
    );
    let nobody = told(&format!("redis://canary:canary@{address}")).await;
    assert!(nobody.contains("refuses the password"), "{nobody}");
    let none = told(&format!("redis://{address}")).await;
    assert!(none.contains("wants a password"), "{none}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = told(&format!("redis://:canary@{free}")).await;
    assert!(nobody.contains("cannot be reached") && nobody.contains("start it"), "{nobody}");
    let unknown = told("redis://:canary@no-such-host.invalid").await;
    assert!(unknown.contains("cannot be reached"), "{unknown}");

    // Something else listens there.
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = other.local_addr().unwrap();
    let answers = tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = other.accept().await else { return };
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let web = told(&format!("redis://:canary@{at}")).await;
    assert!(web.contains("is no Redis"), "{web}");
    answers.abort();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silence = told(&format!("redis://:canary@{}", silent.local_addr().unwrap())).await;
    assert!(silence.contains("cannot be reached") || silence.contains("does not answer"), "{silence}");

    // What can be read and not written, and what is part of something larger.
    let primary = redis.addr.to_string().replace(':', " ");
    let replica =
        RedisProgram::launch(&["--replicaof", &primary, "--masterauth", super::server::PASSWORD], false)
            .await
            .unwrap();
    assert!(said(&replica.server()).await.contains("is a replica"));
    let cluster = RedisProgram::launch(&["--cluster-enabled", "yes"], false).await.unwrap();
    assert!(said(&cluster.server()).await.contains("is part of a cluster"));
    // A user that may not do what is needed, and one that may do just that.
    let _: () = redis
        .command(&["ACL", "SETUSER", "canary-small", "on", ">canary", "~tabproxy:*", "+ping"])
        .await
        .unwrap();
    let small = told(&format!("redis://canary-small:canary@{address}")).await;
    assert!(small.contains("does not let this user") && small.contains("~tabproxy:*"), "{small}");
    let rules =
        ["ACL", "SETUSER", "own", "on", ">canary", "~tabproxy:*", "+@all", "-@admin", "-@dangerous", "+info"];
    let _: () = redis.command(&rules).await.unwrap();
    assert!(told(&format!("redis://own:canary@{address}")).await.starts_with("fine: "));
    let full = RedisProgram::launch(&["--maxmemory", "100kb", "--maxmemory-policy", "noeviction"], false)
        .await
        .unwrap();
    let line = said(&full.server()).await;
    assert!(line.contains("no memory left"), "{line}");
}

/// An authority, and a server's certificate by it, in files.
fn certificates(home: &std::path::Path) -> Vec<u8> {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "the authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    std::fs::write(home.join("server.pem"), certificate.pem()).unwrap();
    std::fs::write(home.join("server.key"), key.serialize_pem()).unwrap();
    std::fs::write(home.join("ca.pem"), authority.pem()).unwrap();
    authority.pem().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_spoken_to_over_tls_where_the_authority_is_known() {
    let home = tempfile::tempdir().unwrap();
    let authority = certificates(home.path());
    let file = |name: &str| home.path().join(name).display().to_string();
    let (certificate, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let options = [
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ];
    let redis = RedisProgram::launch(&options, true).await.unwrap();
    let stranger = said(&redis.server()).await;
    assert!(stranger.contains("not trusted") && stranger.contains("TABPROXY_REDIS_CA"), "{stranger}");
    let known = RedisServer { authorities: Some(authority), ..redis.server() };
    let line = said(&known).await;
    assert!(line.starts_with("fine: "), "{line}");
    let store = Redis::new(&known).unwrap();
    let value = vec![7; 100_000];
    store.put(b"k".to_vec(), value.clone(), std::time::Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.get(b"k".to_vec()).await.unwrap(), Some(value));
    // With and without, the wrong way round.
    let plain = RedisServer { tls: false, ..known.clone() };
    let line = said(&plain).await;
    assert!(line.contains("rediss://"), "{line}");
    let other = RedisProgram::start().await;
    let line = said(&RedisServer { tls: true, ..other.server() }).await;
    assert!(line.contains("redis:// is without"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_keeps_the_program_from_being_ready_until_it_is_right() {
    let redis = RedisProgram::start().await;
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let url = format!("redis://:canary-other@{}", redis.addr);
    let program = Program::start(&site, &[("TABPROXY_REDIS", &url)]).await;
    let refused = |log: &String| log.contains("refuses the password");
    let log = eventually(|| program.log(), refused).await;
    assert!(log.contains(&redis.addr.to_string()) && log.contains("correct user and password"), "{log}");
    // The browser gets ready meanwhile, and that is not enough.
    let ready = |log: &String| log.contains("ready") && log.contains("listening");
    eventually(|| program.log(), ready).await;
    let answer = program.get("/readyz").await;
    assert_eq!(answer.status(), 503);
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("\"shared\"") && !text.contains("canary") && !text.contains(&redis.addr.to_string()),
        "{text}"
    );
    assert_eq!(program.metric("tabproxy_redis_up").await, 0.0);

    let _: () = redis.command(&["ACL", "SETUSER", "default", ">canary-other"]).await.unwrap();
    program.wait_ready().await;
    assert_eq!(program.metric("tabproxy_redis_up").await, 1.0);
    let log = program.log();
    assert_eq!(
        log.matches("refuses the password").count(),
        1,
        "a line for each reason, not for each try: {log}"
    );
    assert!(log.contains("holds what the instances share") && !log.contains("canary"), "{log}");
}

#[test]
fn check_tries_the_connection_and_names_no_password() {
    let home = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tabproxy"));
    command.arg("check").env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", home.path());
    command.env("TABPROXY_LISTEN", "127.0.0.1:0").env("TABPROXY_REDIS", format!("redis://:canary@{free}"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && !text.contains("canary"), "{text}");
    assert!(text.contains(&format!("redis      {free}")) && text.contains("cannot be reached"), "{text}");
}
