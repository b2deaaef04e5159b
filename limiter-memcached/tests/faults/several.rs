//! One of three servers fails: only its keys do.

use crate::common::{ask, check, server, url};
use limiter_core::{Backend, Request};
use limiter_memcached::Memcached;
use limiter_testkit::servers;
use std::time::{Duration, Instant};

const MANY: &str = "1000000/day";

struct Three {
    servers: Vec<servers::Memcached>,
    memcached: Memcached,
    /// Some keys, by the server that they are on.
    names: Vec<Vec<String>>,
}

impl Three {
    async fn start() -> Self {
        let servers: Vec<servers::Memcached> = (0..3).map(|_| server()).collect();
        let addresses: Vec<_> = servers.iter().map(|server| server.addr()).collect();
        let memcached = Memcached::connect(url(&addresses)).expect("a URL of Memcached");
        let mut names = vec![Vec::new(); 3];
        for i in 0..60 {
            let name = i.to_string();
            let asked = Request::one(check(MANY, &name, 1)).expect("one check");
            let limiter_core::Shard::One(server) = memcached.shard(&asked) else {
                panic!("one check, one server")
            };
            let _ = ask(&memcached, MANY, &name).await.expect("an answer");
            names[server as usize].push(name);
        }
        assert!(names.iter().all(|names| names.len() > 5), "{names:?}");
        Self { servers, memcached, names }
    }

    /// Callers of the dead server's keys, and the slowest answer that the others' keys get beside them.
    async fn slowest_of_the_others(&self, dead: usize) -> Duration {
        let callers: Vec<_> = self.names[dead]
            .iter()
            .map(|name| {
                let (memcached, name) = (self.memcached.clone(), name.clone());
                tokio::spawn(async move {
                    loop {
                        let _error = ask(&memcached, MANY, &name).await.expect_err("its server is away");
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            for name in (0..3).filter(|server| *server != dead).flat_map(|server| &self.names[server]) {
                let start = Instant::now();
                let _ = ask(&self.memcached, MANY, name).await.expect("its server is there");
                slowest = slowest.max(start.elapsed());
            }
        }
        for caller in callers {
            caller.abort();
            let ended = caller.await.expect_err("a caller that was stopped");
            assert!(ended.is_cancelled(), "{ended}");
        }
        slowest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_dead_fails_only_its_keys() {
    let three = Three::start().await;
    three.servers[1].kill();
    let _slowest = three.slowest_of_the_others(1).await;
    // A request over several servers needs them all.
    let batch = [Request::new([check(MANY, &three.names[0][0], 1), check(MANY, &three.names[1][0], 1)])
        .expect("two checks")];
    let error = three.memcached.decide(&batch).await.remove(0).expect_err("one of its servers is away");
    assert!(error.is_outage(), "{error}");
    // The rest of a batch has its answers.
    let batch = three.names.iter().map(|names| Request::one(check(MANY, &names[0], 1)).expect("one check"));
    let answers = three.memcached.decide(&batch.collect::<Vec<_>>()).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    // So has a reset.
    let keys: Vec<_> = three.names.iter().map(|names| check(MANY, &names[0], 1).key).collect();
    assert!(three.memcached.reset(&keys).await.is_err());
    for server in [0, 2] {
        assert_eq!(crate::common::taken(&three.memcached, MANY, &three.names[server][0]).await, 0);
    }
    let error = three.memcached.ready().await.expect_err("a server that is away");
    assert!(error.to_string().contains(&three.servers[1].addr().to_string()), "{error}");
}

/// A stopped server answers nothing for a quarter of a second at a time; no other key waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_up_only_its_keys() {
    let three = Three::start().await;
    three.servers[2].pause();
    let slowest = three.slowest_of_the_others(2).await;
    three.servers[2].resume();
    assert!(slowest < Duration::from_millis(200), "an answer of another server took {slowest:?}");
}
