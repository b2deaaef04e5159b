//! A limited HTTP service: `cargo run --release --example http_service`.
//!
//! `service.rs` is the part to copy: three rules decided at once, and what to answer.

mod args;
mod scrape;
mod service;
#[cfg(test)]
mod tests;

use args::{Failure, Flags};
use distributed_rate_limiter::{Error, OnOutage};
use service::{QUOTAS, Service};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;

const HELP: &str = "\
A limited HTTP service on loopback. Ctrl-C ends it.

  --listen ADDRESS   where to listen; 127.0.0.1:8080
  --store URL        what keeps the counts; LIMITER_STORE, else memory://
";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("http_service"),
    }
}

async fn run() -> Result<(), Failure> {
    let flags =
        Flags::parse(std::env::args_os().skip(1), &["--listen", "--store"]).map_err(Failure::Usage)?;
    let Some(flags) = flags else {
        print!("{HELP}");
        return Ok(());
    };
    let listen = flags.get("--listen").unwrap_or("127.0.0.1:8080");
    let listen: SocketAddr = listen
        .parse()
        .map_err(|_| Failure::Usage(format!("--listen {listen:?} is no address such as 127.0.0.1:8080")))?;
    let store = flags.store()?;
    let store_name = store.name();
    let recorder = scrape::recorder().map_err(|error| Failure::Failed(error.to_string()))?;
    let exporter = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| Failure::Failed(error.to_string()))?;
    tokio::spawn(scrape::keep_up(exporter.clone()));
    // Also the default, limits in this process; said here because every service should choose.
    let service = Service::new(service::limiter(store, &QUOTAS), OnOutage::default())
        .map_err(|error| Failure::Failed(error.to_string()))?;
    match service.limiter().ready().await {
        Ok(()) => {}
        // It serves all the same, by the limits of its own.
        Err(Error::Backend(error)) if error.is_outage() => eprintln!("the store: {error}"),
        Err(error) => return Err(Failure::Failed(format!("the store: {error}"))),
    }

    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Failure::Failed(format!("cannot listen on {listen}: {error}")))?;
    let address = listener.local_addr().map_err(|error| Failure::Failed(error.to_string()))?;
    println!("listening on http://{address}, counting in {store_name}; Ctrl-C ends it\n");
    println!("a request must pass every rule:\n{}", service.rules());
    print!("{}", to_try(address));

    // The peer's address is what tells clients apart, so the router must be given it.
    let metrics = scrape::router(exporter, service.limiter().clone());
    let app = service::router(service).merge(metrics).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            // Without the signal there is no end but a kill, which needs no help.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            // A client that never ends its request does not keep the service up.
            tokio::spawn(async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                std::process::exit(0);
            });
        })
        .await
        .map_err(|error| Failure::Failed(error.to_string()))
}

fn to_try(address: SocketAddr) -> String {
    format!(
        "\
to try:
  # where you stand, under each rule
  curl -i http://{address}/search

  # into the limit of one endpoint: 200, then 429
  for i in $(seq 8); do curl -s -o /dev/null -w '%{{http_code}} ' http://{address}/search; done; echo

  # into the limit of the client, who uses many endpoints, and the whole answer
  for i in $(seq 6); do for path in / /search /items/$i; do curl -s -o /dev/null -w '%{{http_code}} ' http://{address}$path; done; done; curl -i http://{address}/

  # another client is not affected
  curl -i -H 'x-client: alice' http://{address}/search

  # what was decided, as Prometheus sees it
  curl -s http://{address}/metrics
"
    )
}
