//! The protocol, and weaker designs, as settings of one model.

use std::time::Duration;

use obo_vault::domain::profile::{Profile, Reuse};

/// A way to redeem refresh tokens, and how kind the world is to it.
#[derive(Debug, Clone)]
pub(crate) struct Design {
    /// How many replicas share the grant.
    pub(crate) replicas: usize,
    /// What keeps two of them from redeeming at the same time.
    pub(crate) exclusion: Exclusion,
    /// Whether requests carry a `client_assertion` that expires.
    pub(crate) fenced: bool,
    /// Whether the HTTP client sends a request again after a timeout.
    pub(crate) retries: bool,
    /// Where an answer is made durable before commit 2.
    pub(crate) journal: Journal,
    /// Whether a probe waits until no journal holds an answer.
    pub(crate) awaits_journals: bool,
    /// Whether a commit that is told again is known for what it is.
    pub(crate) commits_repeat: bool,
    /// Whether a refusal of what a caller chose is told from one of the grant.
    pub(crate) knows_whose_request: bool,
    /// How long a live process may sleep.
    pub(crate) sleep: Sleep,
    /// Whether a request on its way is delivered or lost within the hard
    /// limit.
    pub(crate) packets_are_prompt: bool,
    /// What the provider does.
    pub(crate) profile: Profile,
    /// How much may happen.
    pub(crate) bounds: Bounds,
}

/// What keeps two replicas from redeeming at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exclusion {
    /// The durable row, changed by compare-and-swap.
    Row,
    /// A mutex in each process; the row is written when the answer is there.
    ProcessMutex,
    /// A row that counts as free when it is older than its time to live, and is
    /// written by whoever has an answer.
    TimeToLive,
    /// The row, and an attempt found in it is taken over at once, whether its owner
    /// lives or not.
    AdoptsLive,
}

/// Where an answer is made durable before commit 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journal {
    /// Nowhere.
    None,
    /// In a file of the node: written during an outage of the store, out of
    /// reach while the node is down.
    Node,
    /// In the store.
    Store,
}

/// How long a live process may sleep on an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// For ever.
    Anywhere,
    /// For ever before the request is out; with a request or an answer in hand
    /// not until a probe is due.
    BeforeSending,
    /// Not until a probe is due.
    Never,
}

/// How much may happen; what makes the model finite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Refreshes until the work is done.
    pub(crate) refreshes: u8,
    /// Attempts in all.
    pub(crate) attempts: u8,
    /// Crashes.
    pub(crate) crashes: u8,
    /// Lost packets, reset connections, throttled requests and broken answers.
    pub(crate) faults: u8,
    /// Outages of the store.
    pub(crate) outages: u8,
    /// Intakes that replace the grant.
    pub(crate) enrolments: u8,
    /// Requests whose scopes, resource or claims a caller chose.
    pub(crate) choices: u8,
    /// Commits whose acknowledgement is lost.
    pub(crate) lost_acknowledgements: u8,
}

/// The designs that must hold.
impl Design {
    /// The protocol as it is written: fenced requests, a journal on each node,
    /// and a live process that is on time once it has sent.
    pub(crate) fn protocol() -> Self {
        Self {
            replicas: 2,
            exclusion: Exclusion::Row,
            fenced: true,
            retries: false,
            journal: Journal::Node,
            awaits_journals: true,
            commits_repeat: true,
            knows_whose_request: true,
            sleep: Sleep::BeforeSending,
            packets_are_prompt: false,
            profile: Profile {
                client_error_proves_unused: true,
                throttle_proves_unused: true,
                ..Profile::strict()
            },
            bounds: STORM,
        }
    }

    /// A client secret fences nothing, so the world has to be kinder.
    pub(crate) fn protocol_with_a_secret() -> Self {
        Self { fenced: false, sleep: Sleep::Never, packets_are_prompt: true, ..Self::protocol() }
    }

    /// A provider that accepts a client assertion longer than an exchange may
    /// run.
    pub(crate) fn protocol_with_a_tolerant_clock() -> Self {
        let profile = Profile { assertion_tolerance: Duration::from_secs(120), ..Self::protocol().profile };
        Self { profile, bounds: Bounds { faults: 1, outages: 0, ..STORM }, ..Self::protocol() }
    }

    /// Users who consent anew at any moment.
    pub(crate) fn protocol_with_an_enrolment() -> Self {
        Self {
            bounds: Bounds { crashes: 0, faults: 1, outages: 0, enrolments: 1, ..STORM },
            ..Self::protocol()
        }
    }

    /// Commits that happen and are never acknowledged.
    pub(crate) fn protocol_with_lost_acknowledgements() -> Self {
        let bounds = Bounds { crashes: 1, faults: 1, outages: 0, lost_acknowledgements: 2, ..STORM };
        Self { bounds, ..Self::protocol() }
    }

    /// Callers who choose scopes, resources and claims that the provider refuses.
    pub(crate) fn protocol_with_choices() -> Self {
        let bounds = Bounds { crashes: 1, faults: 1, outages: 0, choices: 1, ..STORM };
        Self { bounds, ..Self::protocol() }
    }

    /// The same at a provider with a grace window.
    pub(crate) fn protocol_with_choices_and_grace() -> Self {
        let bounds = Bounds { crashes: 0, faults: 1, outages: 0, choices: 1, ..STORM };
        Self { bounds, ..Self::protocol_with_grace() }
    }

    /// One node whose journal is the store itself.
    pub(crate) fn protocol_on_one_store() -> Self {
        Self { replicas: 1, journal: Journal::Store, ..Self::protocol() }
    }

    /// A probe inside the grace window does not wait for the fence.
    pub(crate) fn protocol_with_grace() -> Self {
        Self {
            packets_are_prompt: true,
            profile: grace(),
            bounds: Bounds { faults: 1, outages: 0, ..STORM },
            ..Self::protocol()
        }
    }

    /// The same where a packet may linger until after the probe.
    pub(crate) fn protocol_with_grace_and_slow_packets() -> Self {
        Self {
            packets_are_prompt: false,
            bounds: Bounds { crashes: 1, ..PEACE },
            ..Self::protocol_with_grace()
        }
    }
}

/// The designs that must fail.
impl Design {
    /// One flight per grant in each process, and nothing between processes.
    pub(crate) fn mutex_in_each_process() -> Self {
        Self { exclusion: Exclusion::ProcessMutex, ..Self::naive() }
    }

    /// A lock between processes whose holder may outlive it.
    pub(crate) fn lock_with_time_to_live() -> Self {
        Self { exclusion: Exclusion::TimeToLive, ..Self::naive() }
    }

    /// One process, and an HTTP client that means well.
    pub(crate) fn retry_on_timeout() -> Self {
        Self { replicas: 1, retries: true, bounds: Bounds { faults: 1, ..PEACE }, ..Self::naive() }
    }

    /// A durable intent, and a request that stays good for ever.
    pub(crate) fn intent_without_a_fence() -> Self {
        Self {
            fenced: false,
            sleep: Sleep::Anywhere,
            bounds: Bounds { faults: 1, ..PEACE },
            ..Self::protocol()
        }
    }

    /// Everything but the hard limit: the fence does not reach an answer that
    /// is in already.
    pub(crate) fn holder_sleeps_on_the_answer() -> Self {
        Self { sleep: Sleep::Anywhere, bounds: PEACE, ..Self::protocol() }
    }

    /// A client secret where processes may sleep between commit 1 and the first
    /// byte.
    pub(crate) fn sender_sleeps_before_an_unfenced_request() -> Self {
        Self { fenced: false, packets_are_prompt: true, bounds: PEACE, ..Self::protocol() }
    }

    /// A probe while a node, dead or slow, has the answer on its disk.
    pub(crate) fn journal_not_awaited() -> Self {
        Self { awaits_journals: false, bounds: PEACE, ..Self::protocol() }
    }

    /// A provider that forgives a second use is taken for a reason to need no
    /// exclusion.
    pub(crate) fn grace_window_in_place_of_the_protocol() -> Self {
        Self {
            profile: grace(),
            sleep: Sleep::Never,
            packets_are_prompt: true,
            ..Self::mutex_in_each_process()
        }
    }

    /// A commit that finds itself done takes its answer for nobody's, and revokes
    /// the token it has just stored.
    pub(crate) fn commit_not_repeatable() -> Self {
        let bounds = Bounds { lost_acknowledgements: 1, ..PEACE };
        Self { commits_repeat: false, bounds, ..Self::protocol() }
    }

    /// An attempt of a live owner is taken over like one of a dead one.
    pub(crate) fn live_attempt_adopted() -> Self {
        Self { exclusion: Exclusion::AdoptsLive, bounds: PEACE, ..Self::protocol() }
    }

    /// What the provider says to one caller's choice ends the grant for all.
    pub(crate) fn refusal_of_a_choice_taken_for_the_grants() -> Self {
        let bounds = Bounds { choices: 1, ..PEACE };
        Self { knows_whose_request: false, bounds, ..Self::protocol() }
    }

    /// What the field does: an exclusion and nothing else.
    fn naive() -> Self {
        Self {
            fenced: false,
            journal: Journal::None,
            awaits_journals: false,
            sleep: Sleep::Anywhere,
            bounds: PEACE,
            ..Self::protocol()
        }
    }
}

/// A world in which everything breaks, in every combination.
const STORM: Bounds = Bounds {
    refreshes: 2,
    attempts: 3,
    crashes: 1,
    faults: 2,
    outages: 1,
    enrolments: 0,
    choices: 0,
    lost_acknowledgements: 0,
};

/// A world in which nothing breaks.
const PEACE: Bounds = Bounds {
    refreshes: 2,
    attempts: 3,
    crashes: 0,
    faults: 0,
    outages: 0,
    enrolments: 0,
    choices: 0,
    lost_acknowledgements: 0,
};

/// A window that is still open one tick after a rotation, and closed after two.
fn grace() -> Profile {
    let window = Duration::from_secs(100);
    Profile { reuse: Reuse::Grace { window }, ..Design::protocol().profile }
}
