//! What is told to `tracing`.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, Once};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default, set_global_default};
use tracing::{Event, Metadata, Subscriber};

/// The events of this thread, each as its level and fields, while it lives.
pub(crate) struct Events {
    told: Arc<Mutex<Vec<String>>>,
    _guard: DefaultGuard,
}

impl Events {
    pub(crate) fn listen() -> Self {
        Self::listen_and(|| {})
    }

    /// And does this at each.
    pub(crate) fn listen_and(at_each: impl Fn() + Send + Sync + 'static) -> Self {
        // A place in the code that a thread without a listener comes by first is else taken to interest nobody, for good.
        static EVERYWHERE: Once = Once::new();
        EVERYWHERE.call_once(|| drop(set_global_default(Listener::default())));
        let told = Arc::<Mutex<Vec<String>>>::default();
        let guard = set_default(Listener { told: Arc::clone(&told), at_each: Some(Box::new(at_each)) });
        Self { told, _guard: guard }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    /// How many say so.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|event| event.contains(what)).count()
    }
}

#[derive(Default)]
struct Listener {
    told: Arc<Mutex<Vec<String>>>,
    at_each: Option<Box<dyn Fn() + Send + Sync>>,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Listener {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        self.told.lock().unwrap().push(text.0);
        if let Some(at_each) = &self.at_each {
            at_each();
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}
