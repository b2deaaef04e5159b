//! How a backend gives itself to the suite, and how the suite is run.

use crate::cases::cases;
use crate::fixture::Fixture;
use libtest_mimic::{Arguments, Trial};
use limiter_core::Backend;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

/// A backend under test: a name, and how to open it.
#[derive(Clone)]
pub struct Harness {
    name: &'static str,
    open: Arc<dyn Fn() -> Opening + Send + Sync>,
}

type Opening = Pin<Box<dyn Future<Output = Arc<dyn Backend>> + Send>>;

impl Harness {
    /// A backend of this name; `open` is called for each case.
    ///
    /// Each opening may be a store of its own or another handle of one store.
    pub fn new<B, F>(name: &'static str, open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        B: Backend,
        F: Future<Output = B> + Send + 'static,
    {
        let open = Arc::new(open);
        let open = move || {
            let opening = open();
            Box::pin(async move { Arc::new(opening.await) as Arc<dyn Backend> }) as Opening
        };
        Self { name, open: Arc::new(open) }
    }

    /// The name that its trials begin with.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Opens the backend with a namespace that no other case has.
    pub async fn fixture(&self) -> Fixture {
        Fixture::new((self.open)().await)
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Runs every case on every backend, each as a trial of its own; takes the arguments of `cargo test`.
pub fn main(harnesses: impl IntoIterator<Item = Harness>) -> ExitCode {
    let trials = harnesses.into_iter().flat_map(|harness| {
        cases().into_iter().map(move |case| {
            let harness = harness.clone();
            let name = format!("{}::{}", harness.name, case.name());
            Trial::test(name, move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
                runtime.block_on(async { case.run(harness.fixture().await).await });
                Ok(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
