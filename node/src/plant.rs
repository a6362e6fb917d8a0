//! Bugs planted on purpose, to measure what the lab's checks catch. Without the feature `planted-bugs`, which no
//! member of the workspace enables, every question here is answered no at compile time.

/// A bug that `ASPEN_PLANT` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// A node that believes it leads serves linearizable reads without asking a quorum.
    StaleRead,
}

impl Plant {
    /// Whether this bug is in force in this process.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn is_on(self) -> bool {
        let name = match self {
            Self::StaleRead => "stale-read",
        };
        static PLANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        PLANTED.get_or_init(|| std::env::var("ASPEN_PLANT").ok()).as_deref() == Some(name)
    }

    /// Whether this bug is in force in this process.
    #[cfg(not(feature = "planted-bugs"))]
    pub(crate) fn is_on(self) -> bool {
        let Self::StaleRead = self;
        false
    }
}
