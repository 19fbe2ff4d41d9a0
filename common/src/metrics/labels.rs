//! Label values: closed sets, so that every series exists from the start (a counter that appears with its first error
//! has no increase to alert on) and nothing from outside can make new ones.

use crate::wire::message::Refusal;

/// A closed set of label values.
pub(super) trait Label: Copy + PartialEq + 'static {
    const VALUES: &'static [Self];
}

/// One of something for each value of a label.
#[derive(Debug, Clone)]
pub(super) struct ByLabel<L, V>(Vec<(L, V)>);

impl<L: Label, V> ByLabel<L, V> {
    pub(super) fn new(make: impl Fn(L) -> V) -> Self {
        Self(L::VALUES.iter().map(|label| (*label, make(*label))).collect())
    }

    /// Does it to the one of this label.
    pub(super) fn at(&self, label: L, act: impl FnOnce(&V)) {
        if let Some((_, value)) = self.0.iter().find(|(known, _)| *known == label) {
            act(value);
        }
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl Label for $name {
            const VALUES: &'static [Self] = &[$(Self::$variant,)+];
        }
    };
}

label! {
    /// The part of an appliance that met an error.
    Part {
        /// The NBD front end.
        Nbd = "nbd",
        /// The write buffer.
        Buffer = "buffer",
        /// Cuts.
        Cut = "cut",
        /// The drain.
        Drain = "drain",
        /// The journal.
        Journal = "journal",
        /// The updater and the volumes' backing.
        Updater = "updater",
        /// The catalogue.
        Catalog = "catalog",
        /// Shipping to a secondary.
        Ship = "ship",
        /// Receiving from a primary.
        Receive = "receive",
        /// Differential copies.
        Copy = "copy",
        /// Failing over.
        Failover = "failover",
        /// The control API and the metrics page.
        Api = "api",
    }
}

label! {
    /// Why another appliance was refused.
    PeerRefusal {
        /// Its certificate is not one of a peer.
        UnknownPeer = "unknown_peer",
        /// It did not complete the handshake, or in time.
        Handshake = "handshake",
        /// It, or all callers together, had as many connections as they may.
        TooMany = "too_many",
        /// No common protocol version.
        Version = "version",
        /// Its generation is lower.
        Fenced = "fenced",
        /// Its group or volumes collide with others here.
        Conflict = "conflict",
        /// No such group here.
        UnknownGroup = "unknown_group",
        /// No room for the copies.
        Resources = "resources",
        /// The operator suspended the pair here.
        Suspended = "suspended",
        /// It sent something that makes no sense.
        Malformed = "malformed",
        /// This side was not ready: its group was changing its role, or did not run. It is nothing to be alarmed about by itself.
        Unready = "unready",
        /// The copy's journal is damaged here.
        Damaged = "damaged",
    }
}

label! {
    /// Why a received frame was not taken.
    FrameRejection {
        /// A checksum does not match (invariant 9).
        Checksum = "checksum",
        /// It does not follow what is held: a gap, or another history.
        Order = "order",
        /// The running digest at a marker disagrees.
        Digest = "digest",
        /// It makes no sense.
        Malformed = "malformed",
    }
}

impl From<Refusal> for PeerRefusal {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Version => Self::Version,
            Refusal::Fenced => Self::Fenced,
            Refusal::Conflict => Self::Conflict,
            Refusal::UnknownGroup => Self::UnknownGroup,
            Refusal::Resources => Self::Resources,
            Refusal::Suspended => Self::Suspended,
            Refusal::Malformed => Self::Malformed,
            Refusal::Unready => Self::Unready,
            Refusal::Damaged => Self::Damaged,
        }
    }
}
