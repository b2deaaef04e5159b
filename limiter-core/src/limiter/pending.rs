//! From a caller to a request, and from its answer to what is wanted of it.

use super::ask::{Asking, Wanted, wanted};
use super::{Error, RateLimiter};
use crate::decision::Verdict;
use crate::error::BackendError;
use crate::quota::Quota;
use crate::request::{Check, Request};
use crate::rule::ActiveRule;
use crate::scope::Caller;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A decision in the making. Nothing happens before it is polled.
///
/// Written by hand: the state of an `async` block is moved, and read at another width than it was written.
pub(super) struct Pending<'l, 'c, C, T> {
    limiter: &'l RateLimiter,
    caller: Option<C>,
    cost: u64,
    asking: Option<Asking<'l, T>>,
    made: PhantomData<fn() -> Caller<'c>>,
}

impl<'l, C, T> Pending<'l, '_, C, T> {
    #[inline(always)]
    pub(super) fn new(limiter: &'l RateLimiter, caller: C, cost: u64) -> Self {
        Self { limiter, caller: Some(caller), cost, asking: None, made: PhantomData }
    }
}

/// Nothing in it is pinned in place.
impl<C, T> Unpin for Pending<'_, '_, C, T> {}

impl<'c, C: Into<Caller<'c>>, T: Wanted> Future for Pending<'_, 'c, C, T> {
    type Output = Result<T, Error>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(caller) = self.caller.take() {
            return match self.limiter.at_once(caller.into(), self.cost, Ok, Err) {
                Ok(wanted) => Poll::Ready(Ok(wanted)),
                Err(asking) => self.asking.insert(asking).as_mut().poll(context),
            };
        }
        match &mut self.asking {
            Some(asking) => asking.as_mut().poll(context),
            None => polled_again(),
        }
    }
}

#[cold]
fn polled_again() -> ! {
    panic!("a decision was polled again after it was given")
}

impl RateLimiter {
    /// The answer that needs no wait, as `done` makes it, or what is to be waited for, as `ask` does: so that it is
    /// written where it is wanted.
    #[inline(always)]
    pub(super) fn at_once<'l, T: Wanted, R>(
        &'l self,
        caller: Caller<'_>,
        cost: u64,
        done: impl FnOnce(T) -> R,
        ask: impl FnOnce(Asking<'l, T>) -> R,
    ) -> R {
        match (self.inner.plain, &*self.inner.rules, caller.key()) {
            (true, [rule], Some(key)) => self.at_once_by_key(rule, key, cost, done, ask),
            _ => match self.at_once_by_rules(caller, cost) {
                Ok(wanted) => done(wanted),
                Err(asking) => ask(asking),
            },
        }
    }

    #[inline(never)]
    fn at_once_by_key<'l, T: Wanted, R>(
        &'l self,
        rule: &ActiveRule,
        key: &[u8],
        cost: u64,
        done: impl FnOnce(T) -> R,
        ask: impl FnOnce(Asking<'l, T>) -> R,
    ) -> R {
        let quota = rule.quota();
        let request = Request::by_key(&rule.keyspaces, key, &quota, cost);
        match (*self.inner.backend).decide_now(&request) {
            Some(Ok(ref verdict)) if let Some(only) = verdict.only() => done(T::of_one(&request, only)),
            answer => match self.now_or_ask(&request, answer) {
                Ok(wanted) => done(wanted),
                Err(asking) => ask(asking),
            },
        }
    }

    #[inline(never)]
    fn at_once_by_rules<'l, T: Wanted>(&'l self, caller: Caller<'_>, cost: u64) -> Result<T, Asking<'l, T>> {
        match self.request(&caller, cost) {
            Ok(request) => self.now_or_ask(&request, (*self.inner.backend).decide_now(&request)),
            Err(error) => Err(Box::pin(async { Err(error) })),
        }
    }

    #[inline(never)]
    fn now_or_ask<'l, T: Wanted>(
        &'l self,
        request: &Request,
        answer: Option<Result<Verdict, BackendError>>,
    ) -> Result<T, Asking<'l, T>> {
        let backend = &*self.inner.backend;
        match answer {
            Some(answer) => {
                wanted(backend.name(), request, answer).map_err(|error| Box::pin(async { Err(error) }) as _)
            }
            None => Err(T::asked_of(backend, request)),
        }
    }

    #[inline(never)]
    pub(super) fn request(&self, caller: &Caller<'_>, cost: u64) -> Result<Request, Error> {
        let request = match &*self.inner.rules {
            [rule] => {
                let (quota, key) = self.asked(rule, caller)?;
                Request::by_key(&rule.keyspaces, &key, &quota, cost)
            }
            rules => {
                let checks = rules.iter().map(|rule| {
                    let (quota, key) = self.asked(rule, caller)?;
                    Ok(Check { key: rule.keyspaces.of(quota.algorithm()).key(&key), quota, cost })
                });
                Request::new(checks.collect::<Result<Vec<_>, Error>>()?)?
            }
        };
        Ok(match &self.inner.clock {
            Some(clock) => request.at(clock()),
            None => request,
        })
    }

    /// What a rule asks for a caller: the quota, and the caller's key.
    fn asked<'c>(&self, rule: &ActiveRule, caller: &'c Caller<'_>) -> Result<(Quota, Cow<'c, [u8]>), Error> {
        let quota = match rule.chosen(caller) {
            Some(quota) => self.inner.backend.accepts(&quota).map(|()| quota)?,
            None => rule.quota(),
        };
        let key = rule.scope.key_of(caller).map_err(|part| missing(rule, part))?;
        Ok((quota, key))
    }
}

#[cold]
fn missing(rule: &ActiveRule, part: &str) -> Error {
    Error::MissingPart { rule: rule.name.to_string(), part: part.to_owned() }
}
