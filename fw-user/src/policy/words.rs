//! The keys of the policy file whose value is one of a few fixed words.

use fw_common::wire::proto;

/// An enum whose variants are words of the policy file.
pub(super) trait Word: Copy + 'static {
    /// Every variant, the usual one first.
    const ALL: &'static [Self];

    /// The word that stands for it in the file.
    fn word(self) -> &'static str;
}

/// Declares an enum together with its words, so that neither can lack what the other has.
macro_rules! words {
    ($($(#[$attribute:meta])* pub enum $name:ident { $($(#[$of_variant:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$of_variant])* $variant,)+ }

        impl $name {
            /// The word that stands for it in the policy file.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Word for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn word(self) -> &'static str {
                Self::word(self)
            }
        }
    )+};
}

words! {
    /// Whether packets are dropped or only reported: `mode`.
    #[derive(Default)]
    pub enum Mode {
        /// What the policy does not allow is dropped.
        #[default]
        Enforce = "enforce",
        /// What would be dropped is counted and reported, and passes.
        Observe = "observe",
    }

    /// What holds for packets that no program of fw has seen: `fallback`.
    #[derive(Default)]
    pub enum Fallback {
        /// Docker's own rules.
        #[default]
        Docker = "docker",
        /// New connections from the uplinks are dropped.
        Closed = "closed",
    }

    /// What container labels may do: `labels`.
    #[derive(Default)]
    pub enum Labels {
        /// Take away from what the file allows.
        #[default]
        MayNarrow = "may-narrow",
        /// Also add to it.
        MayOpen = "may-open",
    }

    /// Whether the early drop at XDP is wanted: `uplink.xdp`.
    #[derive(Default)]
    pub enum Xdp {
        /// Where the driver has it.
        #[default]
        Auto = "auto",
        /// Nowhere.
        Off = "off",
        /// In the driver, or an error.
        Native = "native",
        /// In the kernel's generic path.
        Generic = "generic",
    }

    /// Whether a port that Docker publishes needs an allow rule: `uplink.published`.
    #[derive(Default)]
    pub enum Published {
        /// It needs one.
        #[default]
        Closed = "closed",
        /// It needs none.
        Open = "open",
    }

    /// Whether connections that the stack carries go on without it: `uplink.fast_path`.
    #[derive(Default)]
    pub enum FastPath {
        /// Every packet takes the way of the stack.
        #[default]
        Off = "off",
        /// One a second does; the others go from device to device.
        On = "on",
    }

    /// Whether the other nodes of this host's swarm may reach what they need: `docker.swarm`.
    #[derive(Default)]
    pub enum SwarmNodes {
        /// Those that Docker knows, while it is an active member.
        #[default]
        Auto = "auto",
        /// Only what the rules of the file let them.
        Off = "off",
    }

    /// The protocol of an `[[allow]]` rule: `proto`.
    pub enum Proto {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
        /// Echo requests, IPv4 and IPv6.
        Icmp = "icmp",
    }

    /// Whether the containers of a network may open connections to this host: `networks.NAME.host`.
    #[derive(Default)]
    pub enum HostAccess {
        /// They may.
        #[default]
        Allow = "allow",
        /// They may not.
        Deny = "deny",
    }

    /// What is done with packets whose source address is not the sender's: `networks.NAME.spoofing`.
    #[derive(Default)]
    pub enum Spoofing {
        /// They are dropped.
        #[default]
        Drop = "drop",
        /// They pass: containers may own more addresses than Docker gave them (VRRP).
        Allow = "allow",
    }

    /// The protocol of a translation: `nat.redirect.proto`, `nat.dnat.proto`.
    pub enum NatProto {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }

    /// Whose connections are translated: `nat.redirect.from`, `nat.dnat.from`.
    pub enum NatFrom {
        /// Containers of managed networks.
        Containers = "containers",
        /// Whoever comes in by an uplink.
        Uplinks = "uplinks",
        /// This host itself.
        Host = "host",
    }

    /// Who writes the NAT rules: `nat.owner`.
    #[derive(Default)]
    pub enum NatOwner {
        /// Docker.
        #[default]
        Docker = "docker",
        /// This program; Docker runs with `--iptables=false`.
        Fw = "fw",
    }
}

impl Proto {
    /// Its number in the IP header (IANA's protocol numbers); of ICMP that of IPv4, by which tables know both.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
            Self::Icmp => proto::ICMP,
        }
    }
}
