//! Scopes and callers: which parts of a caller a rule counts by.

use std::borrow::Cow;
use std::fmt;

/// What a rule counts by: nothing (one limit for everybody), or named parts of the caller.
///
/// # Example
/// ```
/// use limiter_core::Scope;
///
/// assert_eq!(Scope::global().to_string(), "global");
/// assert_eq!(Scope::per("user").and("endpoint").to_string(), "per user and endpoint");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    parts: Vec<Cow<'static, str>>,
}

impl Scope {
    /// The name of a caller's part where the caller is just a key.
    pub const KEY: &'static str = "key";

    /// One limit for everybody.
    #[must_use]
    pub const fn global() -> Self {
        Self { parts: Vec::new() }
    }

    /// A limit for each key: what a limiter without scopes does.
    #[must_use]
    pub fn key() -> Self {
        Self::per(Self::KEY)
    }

    /// A limit for each value of this part of the caller, such as `user`.
    #[must_use]
    pub fn per(part: impl Into<Cow<'static, str>>) -> Self {
        Self { parts: vec![part.into()] }
    }

    /// And of this part too: a limit for each combination.
    #[must_use]
    pub fn and(mut self, part: impl Into<Cow<'static, str>>) -> Self {
        self.parts.push(part.into());
        self
    }

    /// Whether it is one limit for everybody.
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.parts.is_empty()
    }

    /// The caller's key in this scope: its one part as it is, several behind their lengths, so that no two
    /// callers share one.
    ///
    /// # Errors
    /// The part that the caller does not have.
    pub(crate) fn key_of<'c>(&self, caller: &'c Caller<'_>) -> Result<Cow<'c, [u8]>, &Cow<'static, str>> {
        match &self.parts[..] {
            [] => Ok(Cow::Borrowed(&[])),
            [part] => caller.get(part).map(Cow::Borrowed).ok_or(part),
            parts => {
                let mut key = Vec::new();
                for part in parts {
                    let value = caller.get(part).ok_or(part)?;
                    key.extend_from_slice(&(value.len() as u64).to_le_bytes());
                    key.extend_from_slice(value);
                }
                Ok(Cow::Owned(key))
            }
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_global() { f.write_str("global") } else { write!(f, "per {}", self.parts.join(" and ")) }
    }
}

/// Who asks: a key, or named parts such as a user and an endpoint, each any bytes or text.
///
/// A key converts by itself: `limiter.allow("user:42")`. `Debug` shows the names of the parts and withholds
/// their values.
///
/// # Example: a user at an endpoint
/// ```
/// use limiter_core::Caller;
///
/// let caller = Caller::new().with("user", "42").with("endpoint", "/search");
/// assert_eq!(caller.get("user"), Some(&b"42"[..]));
/// ```
#[derive(Clone, Default)]
pub struct Caller<'a> {
    /// The part of the name [`Scope::KEY`]: nearly always the only one.
    key: Option<Cow<'a, [u8]>>,
    parts: Vec<(&'a str, Cow<'a, [u8]>)>,
}

impl<'a> Caller<'a> {
    /// A caller of whom nothing is known yet: enough for rules that are global.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same caller with a part; a name given twice keeps its first value.
    #[must_use]
    pub fn with(mut self, part: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        let value = Cow::Borrowed(value.as_ref());
        if part == Scope::KEY {
            self.key.get_or_insert(value);
        } else {
            self.parts.push((part, value));
        }
        self
    }

    /// The value of a part.
    #[must_use]
    #[inline]
    pub fn get(&self, part: &str) -> Option<&[u8]> {
        if part == Scope::KEY {
            return self.key.as_deref();
        }
        self.parts.iter().find(|(name, _)| *name == part).map(|(_, value)| &**value)
    }

    /// The key, where the caller is just a key.
    #[must_use]
    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    pub(crate) fn is_nobody(&self) -> bool {
        self.key.is_none() && self.parts.is_empty()
    }

    #[inline]
    fn from_key(key: Cow<'a, [u8]>) -> Self {
        Self { key: Some(key), parts: Vec::new() }
    }
}

/// Any reference to bytes or text is a key.
impl<'a, K: AsRef<[u8]> + ?Sized> From<&'a K> for Caller<'a> {
    #[inline]
    fn from(key: &'a K) -> Self {
        Self::from_key(Cow::Borrowed(key.as_ref()))
    }
}

impl From<String> for Caller<'_> {
    fn from(key: String) -> Self {
        Self::from_key(Cow::Owned(key.into_bytes()))
    }
}

impl From<Vec<u8>> for Caller<'_> {
    fn from(key: Vec<u8>) -> Self {
        Self::from_key(Cow::Owned(key))
    }
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.key.iter().map(|_| Scope::KEY).chain(self.parts.iter().map(|(name, _)| *name));
        f.write_str("Caller")?;
        f.debug_set().entries(names).finish()
    }
}
