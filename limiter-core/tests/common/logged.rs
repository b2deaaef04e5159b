//! Everything that goes through `tracing`, as text.
#![allow(dead_code, reason = "each test uses its own part")]

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, Once};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default, set_global_default};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::{Registry, registry};

/// What was logged, at every level: a line for each event, each new span, and each value that a span gets later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// Makes this thread's log this one, until the guard is dropped.
    pub(crate) fn listen(&self) -> DefaultGuard {
        // A place in the code that a thread without a listener comes by first is else taken to interest nobody, for good.
        static EVERYWHERE: Once = Once::new();
        EVERYWHERE.call_once(|| drop(set_global_default(Self::default().subscriber())));
        set_default(self.subscriber())
    }

    /// A subscriber that writes it.
    pub(crate) fn subscriber(&self) -> impl Subscriber + Send + Sync + 'static {
        registry().with(self.clone())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The lines since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn write(&self, head: fmt::Arguments<'_>, fields: impl FnOnce(&mut Fields)) {
        let mut line = Fields(head.to_string());
        fields(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _infallible = write!(self.0, " {field}={value:?}");
    }
}

impl Layer<Registry> for Log {
    fn on_new_span(&self, span: &Attributes<'_>, _id: &Id, _: Context<'_, Registry>) {
        let metadata = span.metadata();
        self.write(format_args!("{} span {}", metadata.level(), metadata.name()), |line| span.record(line));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, Registry>) {
        let name = context.span(id).map_or("?", |span| span.name());
        self.write(format_args!("record {name}"), |line| values.record(line));
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, Registry>) {
        let metadata = event.metadata();
        self.write(format_args!("{} {}", metadata.level(), metadata.target()), |line| event.record(line));
    }
}
