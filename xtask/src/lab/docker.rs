//! Docker inside the lab: the daemon, an image of busybox, networks and containers.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::frame::Mac;
use super::place::Place;
use super::{Lab, wait};

/// A running container.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name for Docker.
    pub name: String,
    /// Its network namespace.
    pub place: Place,
    /// IPv4 address on its first network.
    pub v4: Option<Ipv4Addr>,
    /// Global IPv6 address on its first network.
    pub v6: Option<Ipv6Addr>,
    /// IPv4 gateway of its first network (absent for an internal one on some versions).
    pub gateway: Option<Ipv4Addr>,
    /// MAC address on its first network.
    pub mac: Option<Mac>,
}

impl Container {
    /// Its IPv4 address; an error if it has none.
    pub fn ip(&self) -> Result<IpAddr> {
        Ok(self.v4.with_context(|| format!("container {} has no IPv4 address", self.name))?.into())
    }

    /// Its IPv6 address; an error if it has none.
    pub fn ip6(&self) -> Result<IpAddr> {
        Ok(self.v6.with_context(|| format!("container {} has no IPv6 address", self.name))?.into())
    }
}

impl Lab {
    /// Runs `docker …` against the lab's daemon; returns what it printed.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        let mut argv = self.in_tree();
        argv.extend(["docker", "--config", "/run/lab/cli", "-H", SOCKET]);
        argv.extend(arguments);
        Ok(self.host().run(&argv)?.trim().to_owned())
    }

    /// Creates a network; its bridge device is called `br-NAME`.
    pub fn network(&self, name: &str, options: &[&str]) -> Result<()> {
        let bridge = format!("com.docker.network.bridge.name=br-{name}");
        let mut arguments = vec!["network", "create", "-o", &bridge];
        arguments.extend(options);
        arguments.push(name);
        self.docker(&arguments).map(drop)
    }

    /// As [`Lab::network`] with a subnet, without a process of the client: for hundreds of them.
    pub fn one_of_many_networks(&self, name: &str, subnet: &str) -> Result<()> {
        let what = format!("cannot make the network {name}");
        let body = json!({
            "Name": name,
            "IPAM": {"Config": [{"Subnet": subnet}]},
            "Options": {"com.docker.network.bridge.name": format!("br-{name}")},
        })
        .to_string();
        let socket = self.path(SOCKET.trim_start_matches("unix://"));
        let mut connection = UnixStream::connect(socket).with_context(|| what.clone())?;
        let length = body.len();
        write!(
            connection,
            "POST /networks/create HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .with_context(|| what.clone())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).with_context(|| what.clone())?;
        ensure!(answer.contains(" 201 Created"), "{what}: {answer}");
        Ok(())
    }

    /// Starts a container that does nothing but hold its network; servers are put into it with [`Place::serve_tcp`].
    pub fn container(&self, name: &str, options: &[&str]) -> Result<Container> {
        self.container_running(name, options, &["tail", "-f", "/dev/null"])
    }

    /// Starts a container with a command of its own.
    pub fn container_running(&self, name: &str, options: &[&str], command: &[&str]) -> Result<Container> {
        let mut arguments = vec!["run", "-d", "--name", name, "--hostname", name, "--cap-add", "NET_ADMIN"];
        arguments.extend(options);
        arguments.push(IMAGE);
        arguments.extend(command);
        self.docker(&arguments)?;
        self.inspect(name)
    }

    /// Reads a container's addresses and where its network is.
    pub fn inspect(&self, name: &str) -> Result<Container> {
        let text = self.docker(&["inspect", name])?;
        let all: Value = serde_json::from_str(&text).context("cannot read what `docker inspect` printed")?;
        let pid = all[0]["State"]["Pid"].as_u64().filter(|pid| *pid > 0);
        let pid = pid.ok_or_else(|| anyhow!("container {name} is not running"))?;
        let networks = all[0]["NetworkSettings"]["Networks"].as_object();
        let first = networks.and_then(|networks| networks.values().next()).cloned().unwrap_or_default();
        let field = |key: &str| first[key].as_str().filter(|text| !text.is_empty());
        Ok(Container {
            name: name.to_owned(),
            place: self.place(name, &format!("/proc/{pid}/ns/net")),
            v4: field("IPAddress").and_then(|text| text.parse().ok()),
            v6: field("GlobalIPv6Address").and_then(|text| text.parse().ok()),
            gateway: field("Gateway").and_then(|text| text.parse().ok()),
            mac: field("MacAddress").and_then(|text| text.parse().ok()),
        })
    }

    /// The host's end of a container's `eth0`: a port of the network's bridge.
    pub fn port_of(&self, container: &Container) -> Result<String> {
        let index = self.docker(&["exec", &container.name, "cat", "/sys/class/net/eth0/iflink"])?;
        let port = self.host().script(&format!("grep -lx {index} /sys/class/net/*/ifindex"))?;
        let name = port.trim().split('/').nth(4);
        Ok(name.with_context(|| format!("no port with index {index} for {}", container.name))?.to_owned())
    }

    /// What makes a command that follows one of the generation under test.
    fn in_tree(&self) -> Vec<&'static str> {
        if self.options().docker.suite().is_some() { vec!["chroot", TREE] } else { Vec::new() }
    }

    /// What makes the tree the root of the dockerd that follows. In a mere chroot, `docker exec` would enter the root of
    /// the mount namespace instead of the container's.
    fn as_root_of_its_own(&self) -> String {
        match self.options().docker.suite() {
            Some(_) => format!(
                "unshare --mount sh -ec 'cd {TREE}; pivot_root . mnt; umount -l /mnt; exec \"$@\"' in-tree"
            ),
            None => String::new(),
        }
    }

    /// Shows the generation's tree at [`TREE`], with what dockerd asks of its host.
    ///
    /// The tree is shared and stays as it is. The mounts are the lab's own, and gone with it.
    pub(super) fn mount_docker(&self) -> Result<()> {
        let Some(tree) = self.options().docker.tree() else { return Ok(()) };
        let tree = tree.canonicalize().with_context(|| {
            let generation = self.options().docker;
            format!("no Docker {generation} here; `cargo xtask matrix --docker {generation}` installs it")
        })?;
        self.host()
            .script(&format!(
                "mount --bind {tree} {TREE} && mount -o remount,bind,ro {TREE}
                 for d in proc dev sys run; do mount --rbind /$d {TREE}/$d; done
                 for d in tmp var/lib etc/docker; do mount -t tmpfs fwlab {TREE}/$d; done",
                tree = tree.display()
            ))
            .with_context(|| format!("cannot show the lab the tree {}", tree.display()))
            .map(drop)
    }

    /// Starts dockerd and waits until it answers. Its own state lies in the lab's `/run`.
    pub(super) fn start_docker(&self, arguments: &[String]) -> Result<()> {
        let line = format!(
            "mkdir -p /run/lab/cli; echo '{{}}' >/run/lab/daemon.json; \
             exec env {} {} dockerd -H {SOCKET} --config-file /run/lab/daemon.json --data-root /run/lab/docker \
             --exec-root /run/lab/exec -p /run/lab/dockerd.pid --storage-driver vfs --cgroup-parent /{} \
             --default-address-pool base=10.200.0.0/16,size=24 {} >>/run/lab/dockerd.log 2>&1",
            self.options().environment.join(" "),
            self.as_root_of_its_own(),
            self.name(),
            arguments.join(" ")
        );
        self.keep_running(self.host().command("sh").args(["-ec", &line]))?;
        let ready = wait::until("dockerd ready", Duration::from_mins(1), || {
            self.docker(&["version", "--format", "{{.Server.Version}}"]).ok()
        });
        let version = ready.with_context(|| {
            let log = std::fs::read_to_string(self.path("/run/lab/dockerd.log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(8).collect();
            format!("last lines of its log:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
        })?;
        self.remember_docker_version(version);
        Ok(())
    }

    /// Makes the one image of the lab: a static busybox with links for its applets.
    pub(super) fn import_image(&self) -> Result<()> {
        let busybox = which("busybox").context("no `busybox` in PATH (package busybox-static)")?;
        self.host()
            .script(&format!(
                "d=/run/lab/image; mkdir -p $d/bin $d/etc $d/tmp; cp {} $d/bin/busybox; \
                 for a in $($d/bin/busybox --list); do [ -e $d/bin/$a ] || ln -s busybox $d/bin/$a; done; \
                 tar -C $d -c . | {} docker --config /run/lab/cli -H {SOCKET} import -c 'ENV PATH=/bin' - {IMAGE}; rm -r $d",
                busybox.display(),
                self.in_tree().join(" ")
            ))
            .context("cannot make the lab's image")
            .map(drop)
    }
}

/// Where a program lies, by `PATH`.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The daemon's socket as `fw` and `docker` inside the lab are told.
pub const SOCKET: &str = "unix:///run/docker.sock";
const IMAGE: &str = "fwlab";
/// Where a lab sees the tree of its Docker, if that is not this machine's own.
const TREE: &str = "/mnt";
