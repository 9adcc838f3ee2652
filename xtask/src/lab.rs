//! The lab: a self-contained Docker host and the world around it, in namespaces of this machine.
//!
//! One [`Lab`] is one host H with a real dockerd, joined by its uplink to one outside client R. All of it lives in
//! namespaces of its own (network, mount, process): its `/run`, `/sys` and `/sys/fs/bpf` are private, so that programs
//! inside need no special paths, and nothing of it is left when the [`Lab`] is dropped or its owner dies.

pub mod bpf;
mod docker;
pub mod doors;
mod engine;
pub mod frame;
mod fw;
pub mod generation;
pub mod http;
mod keeper;
pub mod liar;
pub mod meter;
mod monitor;
pub mod offload;
pub mod pins;
mod place;
mod probe;
pub mod raw;
mod serve;
mod state;
pub mod table;
pub mod tcx;
mod town;
pub mod tun;
pub mod wait;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

pub use docker::{Container, SOCKET, which};
pub use fw::{BPFFS, Daemon, Drops, fw_binary};
pub use generation::Generation;
pub use monitor::{Monitor, Said};
pub use place::Place;
pub use probe::{Outcome, ask};
pub use serve::{Heard, Server};
pub use state::RuleCounters;
pub use town::{POLICY, Town};

use keeper::Keeper;

/// What H's uplink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// `eth0` carries the address.
    Plain,
    /// `eth0` is a port of `br0`, which carries the address (as on many virtualisation hosts).
    PortOfBridge,
}

/// How the host is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The uplink.
    pub uplink: Uplink,
    /// Whether dockerd runs docker-proxy.
    pub userland_proxy: bool,
    /// Whether forwarding was on before dockerd, so that it leaves FORWARD's policy at ACCEPT.
    pub forward_accept: bool,
    /// `net.bridge.bridge-nf-call-iptables`, set after dockerd has started.
    pub bridge_netfilter: bool,
    /// What the host's shell does before dockerd starts.
    pub before_docker: &'static str,
    /// Variables of dockerd's environment, as `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Further arguments for dockerd.
    pub dockerd: Vec<String>,
    /// Which Docker.
    pub docker: Generation,
    /// What fw is to tell of itself, as `FW_LOG` says it; the caller's own `FW_LOG` if that is nothing.
    pub fw_log: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            uplink: Uplink::Plain,
            userland_proxy: true,
            forward_accept: false,
            bridge_netfilter: true,
            before_docker: "",
            environment: Vec::new(),
            dockerd: Vec::new(),
            docker: Generation::default(),
            fw_log: None,
        }
    }
}

/// A Docker host and an outside client; gone when dropped.
#[derive(Debug)]
pub struct Lab {
    options: Options,
    host: Place,
    outside: Place,
    docker_version: Mutex<String>,
    // The children end with the keeper's namespace; they are here to be reaped after it.
    children: Mutex<Vec<Child>>,
    keeper: Option<Keeper>,
}

impl Lab {
    /// Makes the namespaces, wires H and R, starts dockerd, imports the image.
    pub fn start(options: Options) -> Result<Self> {
        let lab = Self::without_docker(options)?;
        lab.mount_docker()?;
        lab.host.script(lab.options.before_docker).context("cannot prepare the lab's host for dockerd")?;
        let proxy = format!("--userland-proxy={}", lab.options.userland_proxy);
        let arguments: Vec<_> = std::iter::once(proxy).chain(lab.options.dockerd.iter().cloned()).collect();
        lab.start_docker(&arguments).context("cannot start dockerd in the lab")?;
        lab.set_bridge_netfilter(lab.options.bridge_netfilter)?;
        lab.import_image()?;
        Ok(lab)
    }

    /// Makes the namespaces, and wires H and R.
    pub fn without_docker(options: Options) -> Result<Self> {
        let keeper = Keeper::start()?;
        let pid = keeper.pid();
        let lab = Self {
            host: Place::new("H", pid, PathBuf::from(format!("/proc/{pid}/ns/net"))),
            outside: Place::new("R", pid, keeper.path("/run/netns/r")),
            docker_version: Mutex::default(),
            children: Mutex::default(),
            keeper: Some(keeper),
            options,
        };
        lab.wire().context("cannot wire the lab's host to its outside client")?;
        Ok(lab)
    }

    /// The Docker host.
    pub fn host(&self) -> &Place {
        &self.host
    }

    /// The outside client; its default route goes through H.
    pub fn outside(&self) -> &Place {
        &self.outside
    }

    /// The device that carries H's outside addresses.
    pub fn uplink(&self) -> &'static str {
        match self.options.uplink {
            Uplink::Plain => "eth0",
            Uplink::PortOfBridge => "br0",
        }
    }

    /// How this lab was set up.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Name of this lab, unlike that of any other.
    pub fn name(&self) -> &str {
        self.keeper().name()
    }

    /// Version of the running dockerd.
    pub fn docker_version(&self) -> String {
        self.docker_version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A file of the lab as seen from outside it.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.keeper().path(inside)
    }

    /// The network behind a path that is valid inside the lab (`/run/netns/…`, `/proc/…/ns/net`).
    pub fn place(&self, name: &str, inside: &str) -> Place {
        Place::new(name, self.keeper().pid(), self.path(inside))
    }

    /// A further network namespace, empty but for loopback, reachable as `/run/netns/NAME` inside the lab.
    pub fn further(&self, name: &str) -> Result<Place> {
        self.host.script(&format!("ip netns add {name}; ip -n {name} link set lo up"))?;
        Ok(self.place(name, &format!("/run/netns/{name}")))
    }

    /// Whether bridged packets visit iptables.
    pub fn set_bridge_netfilter(&self, on: bool) -> Result<()> {
        let value = u8::from(on);
        self.host
            .script(&format!(
                "for k in iptables ip6tables; do echo {value} >/proc/sys/net/bridge/bridge-nf-call-$k; done"
            ))
            .map(drop)
    }

    /// The policy of FORWARD: true for ACCEPT, as Docker leaves it when forwarding was on before it started.
    pub fn set_forward_accept(&self, accept: bool) -> Result<()> {
        self.host.run(&["iptables", "-w", "-P", "FORWARD", if accept { "ACCEPT" } else { "DROP" }]).map(drop)
    }

    /// Starts a program that goes on until it ends by itself or the lab does.
    pub fn keep_running(&self, command: &mut Command) -> Result<()> {
        let child = command.spawn().context("cannot start a program in the lab")?;
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        Ok(())
    }

    fn remember_docker_version(&self, version: String) {
        *self.docker_version.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    /// The command that enters the host of this lab.
    pub fn enter(&self) -> Result<String> {
        Ok(format!("nsenter -t {} -m -p -n", self.first_process()?))
    }

    fn first_process(&self) -> Result<u32> {
        let keeper = self.keeper().pid();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        let children = children.context("cannot read the children of the lab's keeper")?;
        children
            .split_whitespace()
            .next()
            .and_then(|pid| pid.parse().ok())
            .context("the lab's keeper has no child")
    }

    fn keeper(&self) -> &Keeper {
        self.keeper.as_ref().expect("the keeper is there until the lab is dropped")
    }

    fn wire(&self) -> Result<()> {
        let forward = u8::from(self.options.forward_accept);
        let uplink = self.uplink();
        let bridge = match self.options.uplink {
            Uplink::Plain => String::new(),
            Uplink::PortOfBridge => format!(
                "ip link add br0 address {HOST_MAC} type bridge; ip link set eth0 master br0; ip link set br0 up"
            ),
        };
        // rp_filter and forwarding are copied from the machine into a new namespace: set what Debian has.
        // H and R do not look for duplicates of their addresses: for up to two seconds after its first container the
        // gateway of a new IPv6 network would answer nobody, and a probe would see that instead of a verdict.
        self.host
            .script(&format!(
                "
                ip netns add r
                ip -n r link set lo up
                ip link add eth0 address {HOST_MAC} type veth peer name eth0 address {OUTSIDE_MAC} netns r
                cd /proc/sys/net
                echo {forward} >ipv4/ip_forward
                for d in all default eth0; do echo 0 >ipv4/conf/$d/rp_filter; done
                for d in all default eth0; do echo 0 >ipv6/conf/$d/accept_ra; done
                for d in all default eth0; do echo 0 >ipv6/conf/$d/accept_dad; done
                ip netns exec r sh -ec 'for d in all default eth0; do echo 0 >/proc/sys/net/ipv6/conf/$d/accept_dad; done'
                echo 1 >ipv6/conf/all/forwarding
                ip link set eth0 up
                {bridge}
                ip addr add {HOST}/24 dev {uplink}
                ip addr add {HOST6}/64 dev {uplink} nodad
                ip -n r addr add {OUTSIDE}/24 dev eth0
                ip -n r addr add {OUTSIDE6}/64 dev eth0 nodad
                ip -n r link set eth0 up
                ip route add default via {OUTSIDE}
                ip -6 route add default via {OUTSIDE6} dev {uplink}
                ip -n r route add default via {HOST}
                ip -n r -6 route add default via {HOST6} dev eth0
                "
            ))
            .map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.keeper.take());
        for child in self.children.get_mut().unwrap_or_else(PoisonError::into_inner) {
            child.wait().ok();
        }
    }
}

/// Removes what labs have left whose owner was killed; says what it removed.
pub fn clean() -> Result<()> {
    let removed = keeper::clean()?;
    match removed.as_slice() {
        [] => println!("nothing left of any lab"),
        names => println!("removed the cgroups of {}", names.join(", ")),
    }
    Ok(())
}

/// Makes a lab, prints the process number of its first process, and keeps it until somebody ends this process.
///
/// For looking around by hand: `nsenter -t NUMBER -m -p -n`.
pub fn hold() -> Result<()> {
    let lab = Lab::start(Options::default())?;
    println!("{}", lab.first_process()?);
    std::io::stdin().read_line(&mut String::new()).context("cannot wait on standard input")?;
    Ok(())
}

/// Whether a lab can be made here; says aloud on standard error that `test` is skipped, and why, if not.
pub fn available(test: &str) -> bool {
    let obstacle = obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("SKIPPED: {test}: {obstacle}");
    }
    obstacle.is_none()
}

/// Why no lab can be made here, if so: tests print it and are skipped.
pub fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let missing: Vec<_> = TOOLS.into_iter().filter(|tool| which(tool).is_none()).collect();
    (!missing.is_empty())
        .then(|| format!("missing: {} (`cargo xtask setup` installs them)", missing.join(", ")))
}

/// H's outside address.
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// R's address.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// H's outside IPv6 address.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 1);
/// R's IPv6 address.
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 2);
/// H's uplink on the wire.
pub const HOST_MAC: frame::Mac = frame::Mac([0x02, 0, 0xc6, 0x12, 0, 1]);
/// R's device on the wire.
pub const OUTSIDE_MAC: frame::Mac = frame::Mac([0x02, 0, 0xc6, 0x12, 0, 2]);

const TOOLS: [&str; 8] = ["unshare", "nsenter", "ip", "dockerd", "docker", "iptables", "busybox", "bpftool"];
