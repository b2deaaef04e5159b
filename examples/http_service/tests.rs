//! The fields by themselves, the service over a real socket under a virtual clock, and the command line.

use crate::args::Flags;
use crate::scrape;
use crate::service::fields::{Policy, limit_field, policy_field, retry_after};
use crate::service::{CLIENT, QUOTAS, Quotas, Service, limiter, network, router};
use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::{Request as HttpRequest, Response, StatusCode};
use distributed_rate_limiter::algorithm::{FixedWindow, Step, TokenBucket};
use distributed_rate_limiter::{
    Backend, BackendError, Effect, ErrorKind, Figure, Locality, Memory, OnOutage, Quota, QuotaError,
    RateLimiterBuilder, Request, Shard, StorageKey, Timestamp, Verdict,
};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

const SECOND: u64 = 1_000_000;

/// Both fields after so many requests at each of these instants, counted in microseconds.
fn fields<S: Step>(quota: &str, asked: &[(u64, u32)]) -> (String, String) {
    let quota: Quota = quota.parse().unwrap();
    let mut state = S::State::default();
    let mut last = None;
    for &(at, times) in asked {
        let at = Timestamp::from_micros(1_000 * SECOND + at).unwrap();
        for _ in 0..times {
            last = Some(S::step(&mut state, &quota, 1, at));
        }
    }
    let decision = last.unwrap();
    let wait = if decision.allowed { None } else { retry_after(&decision) };
    let policies = [Policy { name: "p", quota, decision }];
    (policy_field(&policies), limit_field(&policies, wait))
}

fn bucket(quota: &str, asked: &[(u64, u32)]) -> (String, String) {
    fields::<TokenBucket>(quota, asked)
}

fn texts(policy: &str, limit: &str) -> (String, String) {
    (policy.to_owned(), limit.to_owned())
}

#[test]
fn a_bucket_is_its_burst_and_the_time_to_refill_it() {
    assert_eq!(bucket("100/minute", &[(0, 1)]).0, "\"p\";q=100;w=60");
    assert_eq!(bucket("5/second burst 10", &[(0, 1)]).0, "\"p\";q=10;w=2");
    // The limit and the window would say that 100 can be taken at once.
    assert_eq!(bucket("100/minute burst 20", &[(0, 1)]).0, "\"p\";q=20;w=12");
}

#[test]
fn a_window_below_a_second_is_never_zero_nor_faster_than_true() {
    assert_eq!(bucket("3 per 100ms", &[(0, 1)]).0, "\"p\";q=3;w=1");
    assert_eq!(bucket("1 per 1500ms", &[(0, 1)]).0, "\"p\";q=1;w=2");
}

#[test]
fn what_remains_is_spread_over_no_less_time_than_the_rate_needs() {
    // 99 at 100 a minute: 59.4 s.
    assert_eq!(bucket("100/minute", &[(0, 1)]).1, "\"p\";r=99;t=60");
    assert_eq!(bucket("10000 per 1000s", &[(0, 1)]).1, "\"p\";r=9999;t=1000");
}

#[test]
fn a_bucket_just_emptied_has_more_after_one_interval_and_not_when_full() {
    let policy = "\"p\";q=10;w=60";
    assert_eq!(bucket("10/minute", &[(0, 10)]), texts(policy, "\"p\";r=0;t=6"));
    // 4 s later the next permit is 2 s away; a denied request changes nothing.
    assert_eq!(bucket("10/minute", &[(0, 10), (4 * SECOND, 1)]), texts(policy, "\"p\";r=0;t=2"));
    assert_eq!(bucket("10/minute", &[(0, 11)]), texts(policy, "\"p\";r=0;t=6"));
}

#[test]
fn a_full_window_has_more_when_it_ends() {
    // The instant 1000 s is 40 s into its minute.
    let policy = "\"p\";q=3;w=60";
    assert_eq!(fields::<FixedWindow>("3/minute fixed-window", &[(0, 1)]), texts(policy, "\"p\";r=2;t=40"));
    assert_eq!(fields::<FixedWindow>("3/minute fixed-window", &[(0, 4)]), texts(policy, "\"p\";r=0;t=20"));
}

#[test]
fn retry_after_is_rounded_up_to_at_least_a_second() {
    let wait = |quota: &str, at: u64| {
        let quota: Quota = quota.parse().unwrap();
        let mut state = Default::default();
        let now = Timestamp::from_micros(1_000 * SECOND).unwrap();
        assert!(TokenBucket::step(&mut state, &quota, 1, now).allowed);
        let later = Timestamp::from_micros(1_000 * SECOND + at).unwrap();
        retry_after(&TokenBucket::step(&mut state, &quota, 1, later))
    };
    assert_eq!(wait("1 per 10ms", 0), Some(1));
    assert_eq!(wait("1 per 2s", 0), Some(2));
    assert_eq!(wait("1 per 2s", 1), Some(2));
    assert_eq!(wait("1 per 2s", SECOND), Some(1));
    assert_eq!(wait("1 per 2001ms", 0), Some(3));
}

#[test]
fn retry_after_is_a_second_even_where_a_store_says_none_is_needed() {
    let quota: Quota = "1/second".parse().unwrap();
    let mut state = Default::default();
    let now = Timestamp::from_micros(SECOND).unwrap();
    let [_, mut denied] = [(); 2].map(|()| TokenBucket::step(&mut state, &quota, 1, now));
    denied.retry_after = Some(Duration::ZERO);
    assert_eq!(retry_after(&denied), Some(1));
}

#[test]
fn names_are_quoted() {
    let quota: Quota = "1/second".parse().unwrap();
    let now = Timestamp::from_micros(SECOND).unwrap();
    let decision = TokenBucket::step(&mut Default::default(), &quota, 1, now);
    let name = "a \"b\" \\";
    assert_eq!(policy_field(&[Policy { name, quota, decision }]), r#""a \"b\" \\";q=1;w=1"#);
}

/// A service on a free port, and a client of it.
struct Running {
    address: SocketAddr,
    http: Client<hyper_util::client::legacy::connect::HttpConnector, Body>,
}

impl Running {
    async fn start(limiter: RateLimiterBuilder, on_outage: OnOutage) -> Self {
        Self::serve(router(Service::new(limiter, on_outage).unwrap())).await
    }

    async fn serve(app: axum::Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async { axum::serve(listener, app).await });
        Self { address, http: Client::builder(TokioExecutor::new()).build_http() }
    }

    async fn get(&self, path: &str, client: Option<&str>) -> Response<String> {
        let mut request = HttpRequest::get(format!("http://{}{path}", self.address));
        if let Some(client) = client {
            request = request.header(CLIENT, client);
        }
        let response = self.http.request(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(Body::new(body), 1 << 16).await.unwrap();
        Response::from_parts(parts, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn status(&self, path: &str, client: Option<&str>) -> u16 {
        self.get(path, client).await.status().as_u16()
    }
}

fn header<'a>(response: &'a Response<String>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

const TINY: Quotas = Quotas { global: "6/minute", client: "4/minute", endpoint: "2/minute" };

/// A service of tiny quotas whose time stands still, and its clock in microseconds.
async fn tiny() -> (Running, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(1_000 * SECOND));
    let clock = Arc::clone(&now);
    let limiter = limiter(Memory::new(), &TINY)
        .clock(move || Timestamp::from_micros(clock.load(Ordering::Relaxed)).unwrap());
    (Running::start(limiter, OnOutage::Deny).await, now)
}

#[tokio::test]
async fn an_answer_says_where_the_client_stands_under_every_rule() {
    let (service, _) = tiny().await;
    let response = service.get("/search", None).await;
    assert_eq!((response.status(), &**response.body()), (StatusCode::OK, "found\n"));
    let policy = r#""global";q=6;w=60, "client";q=4;w=60, "endpoint";q=2;w=60"#;
    assert_eq!(header(&response, "ratelimit-policy"), policy);
    let limit = r#""global";r=5;t=50, "client";r=3;t=45, "endpoint";r=1;t=30"#;
    assert_eq!(header(&response, "ratelimit"), limit);
    assert_eq!(header(&response, "retry-after"), "");
}

#[tokio::test]
async fn a_denial_names_the_rule_takes_nothing_and_ends_when_it_says() {
    let (service, now) = tiny().await;
    assert_eq!([service.status("/search", None).await, service.status("/search", None).await], [200, 200]);

    for _ in 0..3 {
        let denied = service.get("/search", None).await;
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(header(&denied, "retry-after"), "30");
        assert_eq!(header(&denied, "content-type"), "application/problem+json");
        let policy = r#""global";q=6;w=60, "client";q=4;w=60, "endpoint";q=2;w=60"#;
        assert_eq!(header(&denied, "ratelimit-policy"), policy);
        // The rules that would have admitted still have what they had; 40 s would be past Retry-After.
        let limit = r#""global";r=4, "client";r=2;t=30, "endpoint";r=0;t=30"#;
        assert_eq!(header(&denied, "ratelimit"), limit);
        let body: serde_json::Value = serde_json::from_str(denied.body()).unwrap();
        let kind = "https://iana.org/assignments/http-problem-types#quota-exceeded";
        assert_eq!((body["type"].as_str(), body["status"].as_u64()), (Some(kind), Some(429)));
        assert_eq!(body["violated-policies"], serde_json::json!(["endpoint"]));
    }

    now.fetch_add(30 * SECOND - 1, Ordering::Relaxed);
    let early = service.get("/search", None).await;
    assert_eq!((early.status().as_u16(), header(&early, "retry-after")), (429, "1"));
    now.fetch_add(1, Ordering::Relaxed);
    assert_eq!(service.status("/search", None).await, 200);
    assert_eq!(service.status("/search", None).await, 429);
}

#[tokio::test]
async fn a_client_is_limited_over_all_endpoints_and_another_is_not_affected() {
    let (service, _) = tiny().await;
    for path in ["/", "/search", "/", "/search"] {
        assert_eq!(service.status(path, Some("a")).await, 200);
    }
    let denied = service.get("/items/1", Some("a")).await;
    let body: serde_json::Value = serde_json::from_str(denied.body()).unwrap();
    assert_eq!((denied.status().as_u16(), header(&denied, "retry-after")), (429, "15"));
    assert_eq!(body["violated-policies"], serde_json::json!(["client"]));

    assert_eq!(service.status("/items/1", Some("b")).await, 200);
    assert_eq!(service.status("/items/1", None).await, 200);
}

#[tokio::test]
async fn made_up_names_meet_the_global_rule() {
    let (service, _) = tiny().await;
    let mut statuses = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        statuses.push(service.status("/", Some(name)).await);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429]);
}

#[tokio::test]
async fn a_name_that_is_an_address_is_not_the_peer() {
    let (service, _) = tiny().await;
    for _ in 0..3 {
        service.status("/", Some("127.0.0.1")).await;
        service.status("/", Some("peer:127.0.0.1")).await;
    }
    assert_eq!(service.status("/", None).await, 200);
}

#[test]
fn the_addresses_that_one_host_can_choose_are_one() {
    let of = |ip: &str| network(ip.parse().unwrap()).to_string();
    assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
    assert_eq!([of("192.0.2.7"), of("::ffff:192.0.2.7")], ["192.0.2.7", "192.0.2.7"]);
}

#[tokio::test]
async fn made_up_paths_share_a_limit_and_so_do_the_values_in_a_route() {
    let (service, _) = tiny().await;
    let mut statuses = Vec::new();
    // Two clients: one would meet its own rule, and hide whether the endpoint's holds.
    for (client, paths) in [("a", ["/x1", "/x2", "/x3"]), ("b", ["/items/1", "/items/2", "/items/3"])] {
        for path in paths {
            statuses.push(service.status(path, Some(client)).await);
        }
    }
    assert_eq!(statuses, [404, 404, 429, 200, 200, 429]);
}

#[tokio::test]
async fn the_unlimited_route_takes_nothing() {
    let (service, _) = tiny().await;
    for _ in 0..20 {
        let response = service.get("/unlimited", None).await;
        assert_eq!((response.status().as_u16(), header(&response, "ratelimit")), (200, ""));
    }
    assert_eq!(header(&service.get("/", None).await, "ratelimit").split(';').nth(1), Some("r=5"));
}

#[tokio::test]
async fn a_scrape_says_what_was_decided() {
    let recorder = scrape::recorder().unwrap();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let service = Service::new(limiter(Memory::new(), &TINY), OnOutage::Deny).unwrap();
    let metrics = scrape::router(recorder.handle(), service.limiter().clone());
    let service = Running::serve(router(service).merge(metrics)).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(service.status("/search", None).await);
    }
    assert_eq!(statuses, [200, 200, 429]);
    let page = service.get("/metrics", None).await;
    assert_eq!(header(&page, "content-type"), "text/plain; version=0.0.4");
    let decided = |rule: &str, outcome: &str| {
        let series = format!(
            "limiter_decisions_total{{rule={rule:?},store=\"memory\",origin=\"store\",outcome={outcome:?}}} "
        );
        let line = page.body().lines().find_map(|line| line.strip_prefix(&*series)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {series} in {}", page.body()))
    };
    assert_eq!((decided("endpoint", "allowed"), decided("endpoint", "denied")), ("2".into(), "1".into()));
    assert_eq!((decided("client", "allowed"), decided("client", "withheld")), ("2".into(), "1".into()));
    assert!(page.body().contains("limiter_memory_keys{store=\"memory\"} 3\n"), "{}", page.body());
}

/// A store that is away until it is not.
struct Flaky {
    store: Memory,
    away: Arc<AtomicBool>,
}

#[async_trait]
impl Backend for Flaky {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        if !self.away.load(Ordering::Relaxed) {
            return self.store.decide(batch).await;
        }
        let lost =
            |_| Err(BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, "flaky", "decide", "away"));
        batch.iter().map(lost).collect()
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, request: &Request) -> Shard {
        self.store.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.store.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.store.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.store.ready().await
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "flaky"
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        self.store.report(tell);
    }
}

#[tokio::test]
async fn without_a_store_the_chosen_policy_answers_and_advertises_nothing() {
    for (on_outage, expected) in [(OnOutage::Allow, 200), (OnOutage::Deny, 503)] {
        let away = Arc::new(AtomicBool::new(true));
        let store = Flaky { store: Memory::new(), away: Arc::clone(&away) };
        let service = Running::start(limiter(store, &TINY), on_outage).await;
        for _ in 0..9 {
            let response = service.get("/", None).await;
            assert_eq!((response.status().as_u16(), header(&response, "ratelimit")), (expected, ""));
        }
        away.store(false, Ordering::Relaxed);
        let statuses = [
            service.status("/", None).await,
            service.status("/", None).await,
            service.status("/", None).await,
        ];
        assert_eq!(statuses, [200, 200, 429]);
    }
}

#[test]
fn the_quotas_of_the_example_are_accepted() {
    let service = Service::new(limiter(Memory::new(), &QUOTAS), OnOutage::default()).unwrap();
    assert!(service.rules().contains("client    5/second burst 10, per client\n"), "{}", service.rules());
}

#[test]
fn flags_are_read_and_what_is_wrong_is_named() {
    let parse = |line: &str| {
        let args = line.split_whitespace().map(Into::into);
        Flags::parse(args, &["--listen", "--store"])
    };
    let get = |line, flag| parse(line).unwrap().unwrap().get(flag).map(str::to_owned);
    assert_eq!(get("--listen 1 --store=memory://", "--store").as_deref(), Some("memory://"));
    assert_eq!(get("--listen 1 --listen=2", "--listen").as_deref(), Some("2"));
    assert_eq!(get("", "--listen"), None);
    assert_eq!(parse("--listen 1 --help"), Ok(None));
    assert!(parse("--port 1").is_err_and(|e| e.contains("\"--port\"")));
    assert!(parse("--listen").is_err_and(|e| e.contains("--listen needs a value")));
}
