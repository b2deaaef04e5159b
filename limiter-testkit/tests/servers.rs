//! The servers themselves: they start, answer, crash, pause, come back, and leave nothing behind.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use limiter_testkit::servers::{
    Certificate, Memcached, Postgres, Process, Redis, RedisCluster, RedisSentinel, ServerError, shared,
};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// Whether a process is there and not only waiting for its parent to notice its end.
fn lives(pid: u32) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output();
    let state = String::from_utf8(output.expect("ps").stdout).expect("text");
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process and what it leaves behind, to be looked at when it should be gone.
fn traces(process: &Process) -> (u32, SocketAddr, PathBuf) {
    (process.pid().expect("it runs"), process.addr(), process.folder().to_owned())
}

fn is_gone((pid, addr, folder): (u32, SocketAddr, PathBuf)) {
    assert!(!lives(pid), "process {pid} lives");
    assert!(TcpStream::connect(addr).is_err(), "{addr} is served");
    assert!(!folder.exists(), "{} is there", folder.display());
}

#[test]
fn redis_starts_empty_and_leaves_nothing() -> Tested {
    let redis = Redis::start()?;
    let first = traces(&redis);
    redis.command(&["SET", "a", "1"])?;
    redis.kill();
    assert!(!lives(first.0) && redis.pid().is_none() && TcpStream::connect(redis.addr()).is_err());
    redis.restart()?;
    assert_eq!(redis.addr(), first.1);
    assert!(redis.command(&["GET", "a"])?.is_nil());
    let second = traces(&redis);
    drop(redis);
    is_gone(first);
    is_gone(second);
    Ok(())
}

#[test]
fn redis_keeps_its_data_if_told_to() -> Tested {
    let redis = Redis::builder().persistent().start()?;
    redis.command(&["SET", "a", "1"])?;
    redis.restart()?;
    assert_eq!(redis.command(&["GET", "a"])?.text(), Some("1"));
    redis.terminate();
    redis.restart()?;
    assert_eq!(redis.command(&["GET", "a"])?.int(), Some(1));
    Ok(())
}

#[test]
fn redis_has_a_password_and_options() -> Tested {
    let redis = Redis::builder().password("secret1").config("maxmemory", "1mb").start()?;
    assert_eq!(redis.url(), format!("redis://:secret1@{}", redis.addr()));
    let limit = redis.command(&["CONFIG", "GET", "maxmemory"])?;
    assert_eq!(limit.field("maxmemory").and_then(|value| value.int()), Some(1 << 20));
    let mut stranger = limiter_testkit::servers::resp::Connection::tcp(redis.addr(), Duration::from_secs(5))?;
    let refused = stranger.command(&["GET", "a"]).map_err(|error| error.to_string());
    assert_eq!(refused, Err("GET: NOAUTH Authentication required.".to_owned()));
    Ok(())
}

#[test]
fn redis_shows_the_certificate_it_was_told_to() -> Tested {
    let accepted = |certificate: Certificate| -> Result<bool, Box<dyn std::error::Error>> {
        let redis = Redis::builder().tls(certificate).start()?;
        assert_eq!(redis.url(), format!("rediss://{}", redis.addr()));
        let trusted = redis.folder().join("trusted.crt");
        std::fs::write(&trusted, redis.ca_pem().expect("it speaks TLS"))?;
        let client = Command::new("openssl")
            .args(["s_client", "-verify_return_error", "-verify_ip", "127.0.0.1", "-connect"])
            .args([&redis.addr().to_string(), "-CAfile"])
            .arg(trusted)
            .stdin(Stdio::null())
            .output()?;
        Ok(client.status.success())
    };
    assert!(accepted(Certificate::Good)?);
    for certificate in [Certificate::OtherCa, Certificate::OtherHost, Certificate::Expired] {
        assert!(!accepted(certificate)?, "{certificate:?}");
    }
    Ok(())
}

#[test]
fn a_paused_server_is_silent_and_can_be_killed() -> Tested {
    let redis = Redis::start()?;
    let mut client = TcpStream::connect(redis.addr())?;
    client.set_read_timeout(Some(Duration::from_millis(100)))?;
    let ask = |mut client: &TcpStream| std::io::Write::write_all(&mut client, b"PING\r\n");
    let mut answer = [0; 7];
    redis.pause();
    ask(&client)?;
    assert!(client.read_exact(&mut answer).is_err(), "a paused server answered");
    TcpStream::connect(redis.addr())?;
    redis.resume();
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, b"+PONG\r\n");
    redis.pause();
    let traces = traces(&redis);
    drop(redis);
    is_gone(traces);
    Ok(())
}

#[test]
fn memcached_starts_empty_and_leaves_nothing() -> Tested {
    let memcached = Memcached::builder().args(["-m", "8"]).start()?;
    assert_eq!(memcached.stat("limit_maxbytes")?.as_deref(), Some("8388608"));
    memcached.command("set a 0 0 1\r\n1")?;
    memcached.pause();
    memcached.resume();
    assert_eq!(memcached.command("get a")?, b"VALUE a 0 1\r\n1\r\nEND\r\n");
    memcached.restart()?;
    assert_eq!(memcached.command("get a")?, b"END\r\n");
    let traces = traces(&memcached);
    drop(memcached);
    is_gone(traces);
    Ok(())
}

#[test]
fn postgres_keeps_its_data_and_leaves_nothing() -> Tested {
    let postgres = Postgres::builder().config("max_connections", "12").start()?;
    assert_eq!(postgres.sql("SHOW max_connections")?, "12");
    assert!(postgres.sql("SELECT nonsense").is_err());
    postgres.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")?;
    postgres.restart()?;
    assert_eq!(postgres.sql("SELECT n FROM t")?, "1");
    postgres.terminate();
    assert!(TcpStream::connect(postgres.addr()).is_err());
    postgres.restart()?;
    assert_eq!(postgres.sql("SELECT n, n FROM t")?, "1|1");
    let traces = traces(&postgres);
    drop(postgres);
    is_gone(traces);
    Ok(())
}

/// Its sessions are processes of their own: they are paused with it, and killed with it.
#[test]
fn postgres_is_paused_and_killed_as_a_whole() -> Tested {
    let postgres = Postgres::start()?;
    std::thread::scope(|scope| -> Tested {
        let session = scope.spawn(|| postgres.sql("SELECT pg_sleep(0.5)"));
        let sleeping =
            "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query ~ '^SELECT pg_sleep'";
        eventually("the session sleeps", || postgres.sql(sleeping).is_ok_and(|pid| !pid.is_empty()));
        postgres.pause();
        // Well past the session's sleep; it ends at once when it goes on.
        std::thread::sleep(Duration::from_secs(2));
        assert!(!session.is_finished(), "the session was not paused");
        postgres.resume();
        session.join().expect("no panic")?;

        let session = scope.spawn(|| postgres.sql("SELECT pg_sleep(600)"));
        let mut pid = String::new();
        eventually("the session sleeps", || {
            pid = postgres.sql(sleeping).unwrap_or_default();
            !pid.is_empty()
        });
        postgres.pause();
        postgres.kill();
        assert!(!lives(pid.parse()?), "a session outlived its server");
        assert!(session.join().expect("no panic").is_err());
        Ok(())
    })
}

#[test]
fn a_cluster_serves_all_slots_and_replaces_a_primary() -> Tested {
    let cluster = RedisCluster::start(3, 1)?;
    assert_eq!(cluster.urls().len(), 6);
    let nodes = cluster.nodes();
    assert_eq!(
        nodes.iter().filter(|node| node.info("role").is_ok_and(|r| r.as_deref() == Some("master"))).count(),
        3
    );
    // The slot of "foo" is 12182, the third primary's.
    nodes[2].command(&["SET", "foo", "1"])?;
    let elsewhere = nodes[0].command(&["GET", "foo"]).map_err(|error| error.to_string());
    assert_eq!(elsewhere, Err(format!("GET: MOVED 12182 {}", nodes[2].addr())));
    eventually("the replica has it", || {
        nodes[5].info("slave_repl_offset").ok() == nodes[2].info("master_repl_offset").ok()
    });
    nodes[2].kill();
    eventually("the replica took over", || {
        nodes[5].info("role").is_ok_and(|r| r.as_deref() == Some("master"))
    });
    cluster.wait_until_ok()?;
    assert_eq!(nodes[5].command(&["GET", "foo"])?.text(), Some("1"));
    Ok(())
}

#[test]
fn sentinels_swap_primary_and_replica() -> Tested {
    let sentinel = RedisSentinel::start()?;
    assert_eq!(sentinel.sentinel_urls().len(), 3);
    let (first, second) = (sentinel.primary()?.port(), sentinel.replica()?.port());
    sentinel.failover()?;
    assert_eq!((sentinel.primary()?.port(), sentinel.replica()?.port()), (second, first));
    sentinel.primary()?.command(&["SET", "a", "1"])?;
    let old = sentinel.replica()?;
    eventually("the old primary follows", || {
        old.info("master_link_status").is_ok_and(|s| s.as_deref() == Some("up"))
    });
    sentinel.primary()?.kill();
    sentinel.wait_for_primary(first)?;
    Ok(())
}

#[test]
fn a_missing_program_is_an_error_that_says_how_to_get_it() {
    let of = |error: Option<ServerError>| error.map(|error| error.to_string()).unwrap_or_default();
    assert_eq!(
        of(Redis::builder().program("no-redis-server").start().err()),
        "no-redis-server is not on PATH: on Debian `apt-get install redis-server`, on macOS `brew install redis`; \
         or set LIMITER_TEST_REDIS_URL, which serves the tests that need no server of their own"
    );
    let memcached = of(Memcached::builder().program("no-memcached").start().err());
    assert!(
        memcached.contains("apt-get install memcached") && memcached.contains("LIMITER_TEST_MEMCACHED_URL")
    );
    let postgres = of(Postgres::builder().programs("/nowhere").start().err());
    assert!(
        postgres.contains("apt-get install postgresql") && postgres.contains("LIMITER_TEST_POSTGRES_URL")
    );
}

#[test]
fn a_server_that_does_not_come_up_shows_its_log() {
    let error = Redis::builder().config("maxmemory", "nonsense").start().expect_err("no number");
    let text = error.to_string();
    assert!(text.contains("redis-server ended with") && text.contains("maxmemory nonsense"), "{text}");
    let text = Postgres::builder().config("no_such_setting", "1").start().expect_err("none").to_string();
    assert!(text.contains("unrecognized configuration parameter \"no_such_setting\""), "{text}");
}

/// What a test process is when it is killed: this one runs itself again and kills that.
#[test]
fn nothing_outlives_a_killed_test_process() -> Tested {
    const ROLE: &str = "TEST_OF_SERVERS_ROLE";
    if std::env::var_os(ROLE).is_some() {
        let (redis, postgres) = (Redis::start()?, Postgres::start()?);
        let child = postgres.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")?;
        postgres.pause();
        let (_, addr, folder) = traces(&postgres);
        let started = [traces(&redis), traces(&postgres), (child.parse()?, addr, folder)];
        let lines = started.map(|(pid, addr, folder)| format!("{pid} {addr} {}", folder.display()));
        std::fs::write(std::env::var("TEST_OF_SERVERS_FILE")?, lines.join("\n"))?;
        std::thread::sleep(Duration::from_secs(600));
        return Ok(());
    }
    let file = std::env::temp_dir().join(format!("limiter-test-{}", std::process::id()));
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "nothing_outlives_a_killed_test_process"])
        .env(ROLE, "killed")
        .env("TEST_OF_SERVERS_FILE", &file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut lines = String::new();
    eventually("both servers are up", || {
        lines = std::fs::read_to_string(&file).unwrap_or_default();
        lines.lines().count() == 3
    });
    child.kill()?;
    child.wait()?;
    std::fs::remove_file(file)?;
    for line in lines.lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let traces = (word().parse()?, word().parse()?, PathBuf::from(word()));
        eventually("the folder is gone", || !traces.2.exists());
        is_gone(traces);
    }
    Ok(())
}

#[test]
fn shared_servers_are_started_once() -> Tested {
    for url in [shared::redis_url, shared::memcached_url, shared::postgres_url] {
        assert_eq!(url()?, url()?);
    }
    let cluster = shared::redis_cluster_urls()?;
    assert_eq!(shared::redis_cluster_urls()?, cluster);
    let variables: Vec<&str> = shared::environment().iter().map(|(name, _)| *name).collect();
    for name in ["REDIS_URL", "REDIS_CLUSTER_URLS", "MEMCACHED_URL", "POSTGRES_URL"] {
        let name = format!("LIMITER_TEST_{name}");
        assert!(variables.contains(&&*name) || std::env::var_os(&name).is_some(), "{name}");
    }
    Ok(())
}
