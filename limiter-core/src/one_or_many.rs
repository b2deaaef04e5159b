//! A list that is nearly always of one.

/// One value in place, or any number on the heap.
#[derive(Clone, Debug)]
pub(crate) enum OneOrMany<T> {
    One([T; 1]),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    #[inline]
    pub(crate) fn one(value: T) -> Self {
        Self::One([value])
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => elsewhere(many),
        }
    }

    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

/// Of its own, so that the two are told apart by a branch: a choice without one reads the list's pointer in any case, which
/// waits for the one value, just written piecemeal, that lies there.
#[cold]
#[inline(never)]
fn elsewhere<T>(many: &[T]) -> &[T] {
    many
}

impl<T> FromIterator<T> for OneOrMany<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self::Many(values.into_iter().collect())
    }
}

impl<T: PartialEq> PartialEq for OneOrMany<T> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Eq> Eq for OneOrMany<T> {}
