//! An HTTP service whose requests are limited globally, per client and per endpoint, in one decision.

#[path = "fields.rs"]
pub(crate) mod fields;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use distributed_rate_limiter::{
    Backend, Caller, Error, OnOutage, Origin, RateLimiter, RateLimiterBuilder, Rule, RuleDecision,
    RulesVerdict, Scope,
};
use fields::Policy;
use serde_json::json;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The quotas of the three rules, as text.
pub(crate) struct Quotas {
    pub(crate) global: &'static str,
    pub(crate) client: &'static str,
    pub(crate) endpoint: &'static str,
}

/// Low enough to run into by hand. A client may do more than it may do at one endpoint, and all clients
/// together more than one.
pub(crate) const QUOTAS: Quotas =
    Quotas { global: "100/second", client: "5/second burst 10", endpoint: "2/second burst 4" };

/// Who the client says it is.
pub(crate) const CLIENT: HeaderName = HeaderName::from_static("x-client");

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The three rules, in one limiter: a request is granted by all of them or taken from none.
pub(crate) fn limiter(store: impl Backend, quotas: &Quotas) -> RateLimiterBuilder {
    RateLimiter::builder(store)
        .namespace("http-service")
        .rule(Rule::new("global", quotas.global).scope(Scope::global()))
        .rule(Rule::new("client", quotas.client).scope(Scope::per("client")))
        .rule(Rule::new("endpoint", quotas.endpoint).scope(Scope::per("client").and("endpoint")))
}

/// What the middleware needs.
pub(crate) struct Service {
    limiter: RateLimiter,
    store_lost: AtomicBool,
    observer: Option<Observer>,
}

/// Told how long each decision took.
type Observer = Box<dyn Fn(Duration) + Send + Sync>;

impl Service {
    pub(crate) fn new(limiter: RateLimiterBuilder, on_outage: OnOutage) -> Result<Self, Error> {
        let limiter = limiter.on_outage(on_outage).build()?;
        Ok(Self { limiter, store_lost: AtomicBool::new(false), observer: None })
    }

    pub(crate) fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }

    /// Measures the decisions; see `quickstart`.
    #[allow(dead_code, reason = "not every example that includes this file measures")]
    pub(crate) fn observe(mut self, observer: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// The rules as a person reads them.
    pub(crate) fn rules(&self) -> String {
        let rules = self.limiter.rules();
        rules.map(|(name, scope, quota)| format!("  {name:<9} {quota}, {scope}\n")).collect()
    }

    /// Logs when the store is lost and when it is back, not once per request; why, the limiter tells `tracing`.
    fn answered_by(&self, origin: Origin) {
        let lost = match origin {
            Origin::Degraded => true,
            Origin::Store => false,
            // It says nothing about the store.
            _ => return,
        };
        if self.store_lost.swap(lost, Ordering::Relaxed) == lost {
            return;
        }
        match (lost, self.limiter.on_outage()) {
            (true, OnOutage::Allow) => eprintln!("no limits until the store answers"),
            (true, OnOutage::Deny) => eprintln!("no service until the store answers"),
            (true, OnOutage::Local { .. }) => {
                eprintln!("limits of this instance's own until the store answers")
            }
            (false, _) => eprintln!("the store answers again: limits hold"),
        }
    }
}

/// The service: three limited endpoints, and one that is not, to compare with.
pub(crate) fn router(service: Service) -> Router {
    Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/search", get(|| async { "found\n" }))
        .route("/items/{id}", get(|Path(id): Path<String>| async move { format!("item {id}\n") }))
        // A path that does not exist costs a permit too: else looking for one would be free.
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such path\n") })
        .layer(from_fn_with_state(Arc::new(service), limit))
        .route("/unlimited", get(|| async { "hello\n" }))
}

/// Decides, and answers itself if the decision is no.
async fn limit(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let client = client_of(&request);
    // The route and not the path: made-up paths and ids make no keys of their own.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let endpoint = route.as_ref().map_or("none", MatchedPath::as_str);
    let caller = Caller::new().with("client", &client).with("endpoint", endpoint);

    let asked = Instant::now();
    let verdict = service.limiter.check_rules(caller, 1).await;
    if let Some(observer) = &service.observer {
        observer(asked.elapsed());
    }

    match verdict {
        Ok(verdict) => {
            let summary = verdict.summary();
            service.answered_by(summary.origin);
            // Where nothing is known of the client's limits, nothing is advertised.
            match (summary.origin, service.limiter.on_outage()) {
                (Origin::Degraded, OnOutage::Allow) => return next.run(request).await,
                (Origin::Degraded, OnOutage::Deny) => return unavailable(),
                _ => {}
            }
            let policies = policies(&verdict);
            let retry_after = if verdict.allowed() { None } else { fields::retry_after(&summary) };
            let mut response = if verdict.allowed() {
                next.run(request).await
            } else {
                too_many_requests(&policies, retry_after)
            };
            set(&mut response, POLICY, fields::policy_field(&policies));
            set(&mut response, LIMIT, fields::limit_field(&policies, retry_after));
            response
        }
        // A limiter whose backend is taken as it is tells what has gone wrong.
        Err(Error::Backend(error)) => {
            eprintln!("no decision: {error}");
            unavailable()
        }
        // Not the store's fault: a rule counts by something that this middleware does not give.
        Err(error) => {
            eprintln!("the limiter is set up wrong: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The client's key: the peer's address, or, **for this demonstration only**, what `x-client` says.
///
/// Anybody can write any name there, so a real service takes the name from what it has authenticated (a
/// session, a signed token, an API key that it looked up). A made-up name escapes the rules per client; it
/// does not escape the global one. Names and addresses are kept apart, so that nobody can name an address
/// and use up its quota.
fn client_of(request: &Request) -> Vec<u8> {
    match request.headers().get(CLIENT) {
        Some(name) => [b"name:", name.as_bytes()].concat(),
        // Without an address all share one key: no way around the limit.
        None => match request.extensions().get::<ConnectInfo<SocketAddr>>() {
            Some(ConnectInfo(peer)) => format!("peer:{}", network(peer.ip())).into_bytes(),
            None => b"peer:unknown".to_vec(),
        },
    }
}

/// Whom an address stands for: a host is given a whole /64 of IPv6 addresses, and could use a new one for
/// each request.
pub(crate) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// What each rule said, as the fields tell it.
fn policies(verdict: &RulesVerdict) -> Vec<Policy<'static>> {
    let policy = |rule: &RuleDecision| Policy { name: rule.rule, quota: rule.quota, decision: rule.decision };
    verdict.rules().iter().map(policy).collect()
}

fn too_many_requests(policies: &[Policy<'_>], retry_after: Option<u64>) -> Response {
    let violated: Vec<_> = policies.iter().filter(|p| !p.decision.allowed).map(|p| p.name).collect();
    let mut response = problem(
        StatusCode::TOO_MANY_REQUESTS,
        json!({
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": "Too many requests",
            "status": 429,
            "violated-policies": violated,
        }),
    );
    if let Some(wait) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, wait.into());
    }
    response
}

fn unavailable() -> Response {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        json!({
            "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
            "title": "Limits cannot be checked at the moment",
            "status": 503,
        }),
    )
}

fn problem(status: StatusCode, body: serde_json::Value) -> Response {
    let mut response = Response::new(Body::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// A field whose text is no header value, which takes a rule's name with control characters, is left out.
fn set(response: &mut Response, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}
