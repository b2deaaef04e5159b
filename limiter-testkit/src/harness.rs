//! How a backend gives itself to the suite, and how the suite is run.

use crate::cases::{Case, Needs, cases};
use crate::fixture::Fixture;
use crate::inside::Inside;
use crate::worker;
use async_trait::async_trait;
use libtest_mimic::{Arguments, Trial};
use limiter_core::{Backend, BackendError, Request, Verdict};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

/// A backend under test: a name, how to open it, and what more can be tested of it.
///
/// # Example: a store that processes share
/// ```no_run
/// # use limiter_core::{Algorithm, Memory, StorageKey};
/// # type Store = Memory;
/// # struct Look;
/// # #[async_trait::async_trait]
/// # impl limiter_testkit::Inside for Look {
/// #     async fn holds(&self, _: &StorageKey) -> bool { false }
/// #     async fn read(&self, _: &StorageKey) -> Option<Vec<u8>> { None }
/// #     async fn write(&self, _: &StorageKey, _: &[u8]) {}
/// #     async fn write_another_type(&self, _: &StorageKey) -> bool { false }
/// #     fn garbage(&self, _: Algorithm) -> Vec<Vec<u8>> { Vec::new() }
/// #     fn corrupt_states(&self) -> u64 { 0 }
/// # }
/// # async fn open(_: std::time::Duration) -> (Store, Look) { (Memory::new(), Look) }
/// use limiter_testkit::Harness;
/// use std::process::ExitCode;
/// use std::time::Duration;
///
/// fn main() -> ExitCode {
///     let (hour, moment) = (Duration::from_secs(3_600), Duration::from_millis(100));
///     let harness = Harness::new("store", move || async move { open(hour).await.0 })
///         .across_processes()
///         .inside(move || open(hour))
///         .expiring(move || open(moment));
///     limiter_testkit::main([harness])
/// }
/// ```
#[derive(Clone)]
pub struct Harness {
    name: &'static str,
    open: Open,
    across_processes: bool,
    inside: Option<Open>,
    expiring: Option<Open>,
}

type Open = Arc<dyn Fn() -> Opening + Send + Sync>;
type Opening = Pin<Box<dyn Future<Output = Opened> + Send>>;

/// A backend, and the look inside that comes with it.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) backend: Arc<dyn Subject>,
    pub(crate) inside: Option<Arc<dyn Inside>>,
}

/// A backend of whatever type, asked by [`Backend::decide_one`] too, which is not object safe.
#[async_trait]
pub(crate) trait Subject: Backend {
    async fn decide_alone(&self, request: &Request) -> Result<Verdict, BackendError>;
}

#[async_trait]
impl<B: Backend> Subject for B {
    async fn decide_alone(&self, request: &Request) -> Result<Verdict, BackendError> {
        self.decide_one(request).await
    }
}

impl Harness {
    /// A backend of this name; `open` is called for each case.
    ///
    /// Each opening may be a store of its own or another handle of one store.
    pub fn new<B, F>(name: &'static str, open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        B: Backend,
        F: Future<Output = B> + Send + 'static,
    {
        let open = move || {
            let opening = open();
            Box::pin(async move { Opened { backend: Arc::new(opening.await), inside: None } }) as Opening
        };
        Self { name, open: Arc::new(open), across_processes: false, inside: None, expiring: None }
    }

    /// All openings share one store, also those of other processes: cases of several instances and processes are run.
    ///
    /// A case's processes are this test's program again, with the variables of
    /// [`shared::environment`](crate::servers::shared::environment).
    #[must_use]
    pub fn across_processes(self) -> Self {
        Self { across_processes: true, ..self }
    }

    /// There is a look inside the store: cases of garbage, and of what is written, are run.
    #[must_use]
    pub fn inside<B, I, F>(self, open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        B: Backend,
        I: Inside,
        F: Future<Output = (B, I)> + Send + 'static,
    {
        Self { inside: Some(with_inside(open)), ..self }
    }

    /// There is an opening that keeps states for a moment only, 100 ms to a second or two, after they are as if never
    /// used, and not an hour where requests carry their instants, but that moment: cases of expiry are run.
    #[must_use]
    pub fn expiring<B, I, F>(self, open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        B: Backend,
        I: Inside,
        F: Future<Output = (B, I)> + Send + 'static,
    {
        Self { expiring: Some(with_inside(open)), ..self }
    }

    /// The name that its trials begin with.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The cases that can be run on it.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        cases().into_iter().filter(|case| self.opening(case.needs()).is_some()).collect()
    }

    /// How it is opened for such a case, if it can be.
    fn opening(&self, needs: Needs) -> Option<&Open> {
        match needs {
            Needs::Nothing => Some(&self.open),
            Needs::Processes => self.across_processes.then_some(&self.open),
            Needs::Inside => self.inside.as_ref(),
            Needs::Expiring => self.expiring.as_ref(),
        }
    }

    /// A backend, and a namespace that no other case has.
    pub(crate) async fn fixture(&self, needs: Needs) -> Fixture {
        let open = self.opening(needs).expect("a case that can be run on this harness");
        let namespace = format!("case-{:016x}", fastrand::u64(..));
        Fixture::new(open().await, namespace, self.clone())
    }

    /// Another instance, with a namespace that is known.
    pub(crate) async fn instance(&self, namespace: &str) -> Fixture {
        Fixture::new((self.open)().await, namespace.to_owned(), self.clone())
    }
}

fn with_inside<B, I, F>(open: impl Fn() -> F + Send + Sync + 'static) -> Open
where
    B: Backend,
    I: Inside,
    F: Future<Output = (B, I)> + Send + 'static,
{
    Arc::new(move || {
        let opening = open();
        Box::pin(async move {
            let (backend, inside) = opening.await;
            Opened { backend: Arc::new(backend), inside: Some(Arc::new(inside)) }
        })
    })
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Runs every case on every backend that it can be run on, each as a trial of its own; takes the arguments of
/// `cargo test`.
pub fn main(harnesses: impl IntoIterator<Item = Harness>) -> ExitCode {
    let harnesses: Vec<Harness> = harnesses.into_iter().collect();
    if let Some(task) = worker::Task::given() {
        return task.run(&harnesses);
    }
    let trials = harnesses.into_iter().flat_map(|harness| {
        harness.cases().into_iter().map(move |case| {
            let harness = harness.clone();
            let name = format!("{}::{}", harness.name, case.name());
            Trial::test(name, move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
                runtime.block_on(case.run(&harness));
                Ok(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
