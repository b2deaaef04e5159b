//! How a limiter asks a backend of whatever type: a decision is one future on the heap, through all layers.

use super::{Error, RulesVerdict};
use crate::backend::Backend;
use crate::decision::{Decision, Verdict};
use crate::error::{BackendError, Effect, ErrorKind};
use crate::request::Request;
use std::pin::Pin;

/// On the heap, so that the future of a decision stays small, and its size is nobody else's matter.
pub(super) type Asking<'b, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'b>>;

/// [`Backend::decide_one`] of a backend whose type is not known. A method for each type that is [`Wanted`], as one for all
/// of them would not be object safe.
pub(crate) trait Ask: Backend {
    fn decision<'b>(&'b self, request: &Request) -> Asking<'b, Decision>;

    fn rules<'b>(&'b self, request: &Request) -> Asking<'b, RulesVerdict>;
}

impl<B: Backend> Ask for B {
    fn decision<'b>(&'b self, request: &Request) -> Asking<'b, Decision> {
        ask(self, request)
    }

    fn rules<'b>(&'b self, request: &Request) -> Asking<'b, RulesVerdict> {
        ask(self, request)
    }
}

fn ask<'b, T: Wanted>(backend: &'b impl Backend, request: &Request) -> Asking<'b, T> {
    // The place first, so that the request is copied there, and not by way of the stack.
    let place = Box::new_uninit();
    let request = request.clone();
    let asking =
        Box::write(
            place,
            async move { wanted(backend.name(), &request, backend.decide_one(&request).await) },
        );
    Box::into_pin(asking)
}

/// What can be wanted of a verdict.
pub(super) trait Wanted: Sized {
    fn of(request: &Request, verdict: &Verdict) -> Option<Self>;

    /// Of the verdict on a request of one check.
    fn of_one(request: &Request, decision: &Decision) -> Self;

    fn asked_of<'b>(backend: &'b dyn Ask, request: &Request) -> Asking<'b, Self>;
}

impl Wanted for Decision {
    fn of(_request: &Request, verdict: &Verdict) -> Option<Self> {
        verdict.summary()
    }

    #[inline(always)]
    fn of_one(_request: &Request, decision: &Self) -> Self {
        *decision
    }

    fn asked_of<'b>(backend: &'b dyn Ask, request: &Request) -> Asking<'b, Self> {
        backend.decision(request)
    }
}

/// What is wanted of the answer, if it is one: a verdict with a decision per check.
pub(super) fn wanted<T: Wanted>(
    backend: &'static str,
    request: &Request,
    answer: Result<Verdict, BackendError>,
) -> Result<T, Error> {
    let verdict = answer?;
    let is_one = verdict.decisions().len() == request.checks().len();
    let wanted = if is_one { T::of(request, &verdict) } else { None };
    wanted.ok_or_else(|| wrong_shape(backend))
}

/// A backend that breaks its contract.
#[cold]
fn wrong_shape(backend: &'static str) -> Error {
    let message = "the answer does not have one decision per check";
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, backend, "decide", message).into()
}
