//! What can befall a pair.

/// One thing that befalls a pair while hosts write. "Primary" and "copy" are roles: sides change theirs on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Blow {
    /// `kill -9` of the primary, which starts again.
    KillPrimary,
    /// `kill -9` of the copy's side, which starts again.
    KillCopy,
    /// Of both in one moment.
    KillBoth,
    /// The copy's side stops cleanly and starts again.
    RestartCopy,
    /// 100 ms each way, 1 % lost, 3 % overtaken by others.
    BadLink,
    /// Nothing comes through for some seconds.
    BlackHole,
    /// The link goes and comes every second.
    Flapping,
    /// The primary hangs: SIGSTOP, SIGCONT.
    HangPrimary,
    /// The copy's side hangs.
    HangCopy,
    /// The disk of the primary is full for a while.
    FullPrimary,
    /// The disk of the copy's side is full for a while.
    FullCopy,
    /// The clock on the primary's wall jumps by hours, and back.
    ClockOfPrimary,
    /// That of the copy's side.
    ClockOfCopy,
    /// Hosts write more than the journal holds while nothing comes through: the copy is brought back by what differs.
    Overflow,
    /// A bit of the copy's journal flips, in what is not applied yet.
    Damage,
    /// A bit of a copy volume flips.
    Plant,
    /// Roles change as planned.
    Switchover,
    /// The copy is made primary while the primary lives; that one is fenced and returns as the copy.
    ForcedFailover,
    /// The primary dies, the copy takes over, the dead one returns as the copy.
    Failover,
    /// Both sides are compared.
    Verify,
    /// The copy is proven on a clone.
    Drill,
}

impl Blow {
    /// Deaths.
    pub const KILLS: [Self; 3] = [Self::KillPrimary, Self::KillCopy, Self::KillBoth];

    /// What the link does.
    pub const LINK: [Self; 3] = [Self::BadLink, Self::BlackHole, Self::Flapping];

    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::KillPrimary,
        Self::KillCopy,
        Self::KillBoth,
        Self::RestartCopy,
        Self::BadLink,
        Self::BlackHole,
        Self::Flapping,
        Self::HangPrimary,
        Self::HangCopy,
        Self::FullPrimary,
        Self::FullCopy,
        Self::ClockOfPrimary,
        Self::ClockOfCopy,
        Self::Overflow,
        Self::Damage,
        Self::Plant,
        Self::Verify,
        Self::Drill,
        Self::Switchover,
        Self::ForcedFailover,
        Self::Failover,
    ];
}
