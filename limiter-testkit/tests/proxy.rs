//! The proxy's faults, each before a server that echoes.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use limiter_testkit::{Direction, Proxy, RandomFaults};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

type Tested = io::Result<()>;

const SOON: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(20);

/// Sends back what it gets, until the client closes.
fn echo() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let addr = listener.local_addr()?;
    spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            spawn(move || io::copy(&mut &client, &mut &client).and_then(|_| client.shutdown(Shutdown::Both)));
        }
    });
    Ok(addr)
}

fn connect(proxy: &Proxy) -> io::Result<TcpStream> {
    let client = TcpStream::connect(proxy.addr())?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(LONG))?;
    Ok(client)
}

/// What comes back within a time.
fn ask(mut client: &TcpStream, bytes: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    client.write_all(bytes)?;
    client.set_read_timeout(Some(patience))?;
    let mut answer = vec![0; bytes.len()];
    client.read_exact(&mut answer)?;
    Ok(answer)
}

fn is_timeout<T: std::fmt::Debug>(answer: io::Result<T>) {
    let kind = answer.expect_err("no answer").kind();
    assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{kind:?}");
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LONG, "never: {what}");
        sleep(Duration::from_millis(2));
    }
}

#[test]
fn carries_bytes_and_ends() -> Tested {
    let proxy = Proxy::start(echo()?)?;
    let mut client = connect(&proxy)?;
    let sent: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
    let (mut writing, copy) = (client.try_clone()?, sent.clone());
    spawn(move || writing.write_all(&copy).and_then(|()| writing.shutdown(Shutdown::Write)));
    let mut came = Vec::new();
    client.read_to_end(&mut came)?;
    assert!(came == sent, "{} bytes came of {}", came.len(), sent.len());
    eventually("the connection is closed", || proxy.open() == 0);
    assert_eq!(proxy.accepted(), 1);
    assert_eq!(proxy.bytes(Direction::ToServer), 1 << 20);
    assert_eq!(proxy.bytes(Direction::Both), 2 << 20);
    Ok(())
}

#[test]
fn delays_each_way_and_no_byte_twice() -> Tested {
    let proxy = Proxy::start(echo()?)?;
    let client = connect(&proxy)?;
    ask(&client, b"fast", SOON)?;
    proxy.delay(Direction::Both, Duration::from_millis(100));
    let started = Instant::now();
    ask(&client, b"slow", LONG)?;
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    // It is latency: what is sent at once comes at once, however many pieces it is.
    let started = Instant::now();
    for _ in 0..20 {
        (&client).write_all(b"more")?;
        sleep(Duration::from_millis(1));
    }
    let mut all = [0; 80];
    (&client).read_exact(&mut all)?;
    assert!(started.elapsed() < Duration::from_millis(1_000), "{:?}", started.elapsed());
    // Turned off, it holds back no more, also what waits.
    proxy.delay(Direction::Both, LONG);
    (&client).write_all(b"wait")?;
    sleep(Duration::from_millis(20));
    proxy.delay(Direction::Both, Duration::ZERO);
    (&client).read_exact(&mut all[..4])?;
    Ok(())
}

#[test]
fn drips() -> Tested {
    let proxy = Proxy::start(echo()?)?;
    let client = connect(&proxy)?;
    proxy.drip(Direction::ToClient, 2, Duration::from_millis(20));
    let started = Instant::now();
    (&client).write_all(&[7; 20])?;
    let (mut reads, mut came, mut bytes) = (0, 0, [0; 20]);
    while came < 20 {
        came += (&client).read(&mut bytes)?;
        reads += 1;
    }
    assert!(started.elapsed() >= Duration::from_millis(180), "{:?}", started.elapsed());
    assert!(reads > 1, "all came in one piece");
    Ok(())
}

#[test]
fn blackholes_one_way_or_both_and_delivers_after() -> Tested {
    for direction in [Direction::ToServer, Direction::ToClient, Direction::Both] {
        let proxy = Proxy::start(echo()?)?;
        let client = connect(&proxy)?;
        ask(&client, b"a", LONG)?;
        let before = proxy.bytes(Direction::ToServer);
        proxy.blackhole(direction);
        is_timeout(ask(&client, b"b", SOON));
        let reached = proxy.bytes(Direction::ToServer) > before;
        assert_eq!(reached, direction == Direction::ToClient, "{direction:?}");
        let new = connect(&proxy)?;
        is_timeout(ask(&new, b"c", SOON));
        proxy.heal();
        let mut late = [0; 1];
        for (mut client, byte) in [(&client, b"b"), (&new, b"c")] {
            client.set_read_timeout(Some(LONG))?;
            client.read_exact(&mut late)?;
            assert_eq!(&late, byte);
        }
    }
    Ok(())
}

#[test]
fn blackholes_what_was_accepted_and_carries_what_is_new() -> Tested {
    let proxy = Proxy::start(echo()?)?;
    let old = connect(&proxy)?;
    ask(&old, b"a", LONG)?;
    proxy.blackhole_accepted(Direction::Both);
    is_timeout(ask(&old, b"b", SOON));
    assert_eq!(ask(&connect(&proxy)?, b"c", LONG)?, b"c");
    proxy.heal();
    let mut late = [0; 1];
    (&old).read_exact(&mut late)?;
    assert_eq!(&late, b"b");
    Ok(())
}

#[test]
fn hides_the_end_of_a_connection_too() -> Tested {
    let proxy = Proxy::start(echo()?)?;
    let client = connect(&proxy)?;
    ask(&client, b"a", LONG)?;
    proxy.blackhole(Direction::ToServer);
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(SOON))?;
    is_timeout((&client).read(&mut [0; 1]));
    proxy.heal();
    client.set_read_timeout(Some(LONG))?;
    assert_eq!((&client).read(&mut [0; 1])?, 0);
    Ok(())
}

#[test]
fn cuts_inside_a_reply_once() -> Tested {
    let proxy = Proxy::start(echo()?)?;
    for bytes in [0, 1, 5, 9] {
        let mut client = connect(&proxy)?;
        proxy.cut_reply_after(bytes);
        client.write_all(b"123456789")?;
        let mut came = Vec::new();
        client.read_to_end(&mut came)?;
        assert_eq!(came, &b"123456789"[..bytes]);
        assert_eq!(ask(&connect(&proxy)?, b"whole", LONG)?, b"whole");
    }
    // It counts over several replies.
    let mut client = connect(&proxy)?;
    proxy.cut_reply_after(6);
    assert_eq!(ask(&client, b"1234", LONG)?, b"1234");
    client.write_all(b"5678")?;
    let mut came = Vec::new();
    client.read_to_end(&mut came)?;
    assert_eq!(came, b"56");
    Ok(())
}

#[test]
fn resets_what_is_open() -> Tested {
    let proxy = Proxy::start(echo()?)?;
    let clients = [connect(&proxy)?, connect(&proxy)?];
    for client in &clients {
        ask(client, b"a", LONG)?;
    }
    proxy.reset();
    for mut client in &clients {
        assert_eq!(client.read(&mut [0; 1]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    }
    eventually("both are closed", || proxy.open() == 0);
    assert_eq!(ask(&connect(&proxy)?, b"new", LONG)?, b"new");
    Ok(())
}

#[test]
fn refuses_new_connections_and_keeps_open_ones() -> Tested {
    let proxy = Proxy::start(echo()?)?;
    let client = connect(&proxy)?;
    ask(&client, b"a", LONG)?;
    for _ in 0..20 {
        proxy.refuse();
        let refused = TcpStream::connect(proxy.addr()).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ask(&client, b"still", LONG)?, b"still");
        proxy.heal();
        connect(&proxy)?;
    }
    Ok(())
}

#[test]
fn a_server_that_is_gone_resets_the_client() -> Tested {
    let nobody = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let proxy = Proxy::start(nobody)?;
    assert!(ask(&connect(&proxy)?, b"a", LONG).is_err());
    proxy.set_upstream(echo()?);
    assert_eq!(ask(&connect(&proxy)?, b"a", LONG)?, b"a");
    Ok(())
}

/// How many answers each of 40 connections got before its end.
fn answers(seed: u64) -> io::Result<Vec<usize>> {
    let proxy = Proxy::start(echo()?)?;
    proxy.randomize(RandomFaults { seed, delay: Duration::from_micros(200), cuts: 50, resets: 50 });
    let mut all = Vec::new();
    for _ in 0..40 {
        let client = connect(&proxy)?;
        all.push((0..20).take_while(|_| ask(&client, b"hello", LONG).is_ok()).count());
        // Until the proxy has taken the end, too.
        drop(client);
        eventually("the connection is closed", || proxy.open() == 0);
    }
    Ok(all)
}

#[test]
fn chance_has_a_seed() -> Tested {
    let first = answers(1)?;
    assert!(first.iter().any(|n| *n < 20) && first.iter().any(|n| *n > 3), "{first:?}");
    assert_eq!(answers(1)?, first);
    assert_ne!(answers(2)?, first);
    Ok(())
}

#[test]
fn dropping_it_closes_all() -> Tested {
    let proxy = Proxy::start(echo()?)?;
    let (client, addr) = (connect(&proxy)?, proxy.addr());
    ask(&client, b"a", LONG)?;
    proxy.blackhole(Direction::Both);
    drop(proxy);
    assert!(matches!((&client).read(&mut [0; 1]), Ok(0) | Err(_)));
    assert!(TcpStream::connect(addr).is_err());
    Ok(())
}
