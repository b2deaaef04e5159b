//! Through pgbouncer in transaction mode, which gives a connection's transactions to different sessions of the server.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{ask, check, is, migrated, patient, sql, start, taken};
use limiter_core::{Backend, Effect, ErrorKind, Request};
use limiter_testkit::servers;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MANY: &str = "1000000/3000days fixed-window";

/// A pgbouncer before a server; it ends with its handle.
struct Bouncer {
    child: Child,
    folder: PathBuf,
    url: String,
}

impl Bouncer {
    fn start(server: &servers::Postgres) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.expect("a free port").port();
        let folder = std::env::temp_dir().join(format!("limiter-pgbouncer-{port}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let settings = folder.join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} user=limiter\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 4\nmax_client_conn = 100\n",
            server.port()
        );
        std::fs::write(&settings, text).expect("a file");
        let mut command = Command::new(program());
        command.arg(&settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It does not run as root.
        if std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
            command.uid(65_534).gid(65_534);
        }
        let child = command.spawn().expect("pgbouncer: on Debian `apt-get install pgbouncer`");
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "pgbouncer does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        let url = server.url().replace(&server.port().to_string(), &port.to_string());
        Self { child, folder, url }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

/// Debian keeps it where only root's PATH leads.
fn program() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/pgbouncer");
    if debian.exists() { debian } else { PathBuf::from("pgbouncer") }
}

/// Holds a session of the server.
async fn hold(bouncer: &Bouncer, statement: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&bouncer.url, tokio_postgres::NoTls).await.expect("a session");
    tokio::spawn(connection);
    client.batch_execute(&format!("BEGIN; {statement}")).await.expect("a transaction");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_another_session_has_prepared() {
    let server = start();
    migrated(patient(server.url())).await;
    let bouncer = Bouncer::start(&server);
    let postgres = patient(bouncer.url.clone()).build().expect("a store");
    let _ = ask(&postgres, MANY, "a").await.expect("an answer");
    let mut held = Vec::new();
    let error = loop {
        held.push(hold(&bouncer, "SELECT 1").await);
        match ask(&postgres, MANY, "a").await {
            Ok(_) => assert!(held.len() < 4, "it is always the same session"),
            Err(error) => break error,
        }
    };
    is(&error, ErrorKind::Config, Effect::NotApplied, "26000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_behind_its_pooler() {
    let server = start();
    let bouncer = Bouncer::start(&server);
    let postgres =
        migrated(patient(bouncer.url.clone()).timeout(Duration::from_secs(20)).prepared(false)).await;
    let _ = ask(&postgres, MANY, "a").await.expect("an answer");
    let _held = hold(&bouncer, "LOCK TABLE rate_limits").await;
    let asked = tokio::spawn({
        let postgres = postgres.clone();
        async move { ask(&postgres, MANY, "a").await }
    });
    while sql(&server, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "0" {
        assert!(!asked.is_finished(), "it does not wait");
    }
    server.kill();
    let error = asked.await.expect("a task").expect_err("a server that is gone");
    is(&error, ErrorKind::Unavailable, Effect::Unknown, "08P01");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_may_be_of_any_session() {
    let server = start();
    let bouncer = Bouncer::start(&server);
    let postgres =
        migrated(patient(bouncer.url.clone()).timeout(Duration::from_secs(20)).prepared(false)).await;
    postgres.ready().await.expect("a store that can be used");
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let postgres = postgres.clone();
            tokio::spawn(async move {
                for i in 0..30 {
                    let keys = ["a".to_owned(), format!("{caller} {i}")];
                    let batch = keys.map(|key| Request::one(check(MANY, &key, 1)).expect("a request"));
                    for answer in postgres.decide(&batch).await {
                        assert!(answer.expect("an answer").allowed());
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller that ends");
    }
    assert_eq!(taken(&postgres, MANY, "a").await, 480);
    // Nothing that one transaction was limited to is left behind for another client's.
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'limiter-postgres'";
    assert_ne!(sql(&server, sessions), "0");
    let (client, connection) =
        tokio_postgres::connect(&bouncer.url, tokio_postgres::NoTls).await.expect("a session");
    tokio::spawn(connection);
    for _ in 0..8 {
        let rows = client
            .simple_query("SELECT current_setting('statement_timeout') || current_setting('lock_timeout')");
        let rows = rows.await.expect("settings");
        let left = rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(left, Some("00"));
    }
}
