//! Two hosts that form a swarm: the lab's host H is its manager, its outside client R runs a dockerd and a fw of its own.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use xtask::lab::{self, Container, Generation, HOST, Lab, OUTSIDE, Options, Place, fw_binary, wait};

/// The swarm, with an overlay on both hosts, and a stranger behind R.
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    /// In no swarm; reaches H by way of R.
    pub(crate) stranger: Place,
    /// On the overlay, on H; publishes nothing.
    pub(crate) here: Container,
    /// On the overlay, on R.
    pub(crate) there: Container,
}

impl Ground {
    /// The hosts, or nothing (after having said why) where no lab can be made.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        // Another generation on H: FW_SWARM_DOCKER=28.5.
        let docker = std::env::var("FW_SWARM_DOCKER").map_or(Ok(Generation::default()), |name| name.parse());
        let docker = docker.expect("a generation");
        if let Some(obstacle) = docker.obstacle() {
            println!("SKIPPED: {test}: {obstacle}");
            return None;
        }
        let lab = Lab::start(Options { docker, ..Options::default() }).expect("a lab");
        start_second(&lab).expect("a second dockerd");
        lab.docker(&["swarm", "init", "--advertise-addr", &HOST.to_string()]).expect("a swarm");
        join(&lab).expect("a worker");
        lab.docker(&["network", "create", "-d", "overlay", "--attachable", "mesh"]).expect("an overlay");
        let here = lab.container("here", &["--network=mesh"]).expect("a container");
        let run = ["run", "-d", "--name", "there", "--network=mesh", "fwlab", "tail", "-f", "/dev/null"];
        second(&lab, &run).expect("a container of the other host");
        let there = inspect_second(&lab, "there").expect("its addresses");
        let stranger = stranger(&lab).expect("a stranger");
        Some(Self { lab, stranger, here, there })
    }

    /// R joins as a worker.
    pub(crate) fn join(&self) -> Result<()> {
        join(&self.lab)
    }

    /// Starts fw on R, with pins of its own, and waits until it is ready.
    pub(crate) fn second_fw(&self, policy: &str) -> Result<()> {
        fs::write(self.lab.path(&format!("{FOLDER}/policy.toml")), policy)?;
        let line = format!(
            "exec {} run --policy {FOLDER}/policy.toml --bpffs {BPFFS} --docker {SOCKET} >>{FOLDER}/fw.log 2>&1",
            fw_binary()?.display()
        );
        self.lab.keep_running(self.lab.outside().command("sh").args(["-ec", &line]).env("NO_COLOR", "1"))?;
        let ready = wait::until("fw of the other host", Duration::from_secs(30), || {
            self.second_status().is_ok().then_some(())
        });
        ready.with_context(|| self.second_log())
    }

    /// `fw reload` on R, with another policy.
    pub(crate) fn second_reload(&self, policy: &str) -> Result<()> {
        fs::write(self.lab.path(&format!("{FOLDER}/policy.toml")), policy)?;
        self.fw_of_second(&["reload"]).map(drop)
    }

    /// `fw status --json` on R.
    pub(crate) fn second_status(&self) -> Result<Value> {
        let text = self.fw_of_second(&["status", "--json", "--docker", SOCKET])?;
        serde_json::from_str(&text).context("`fw status --json` did not print JSON")
    }

    fn fw_of_second(&self, arguments: &[&str]) -> Result<String> {
        let fw = fw_binary()?.display().to_string();
        self.lab.outside().run(&[&[fw.as_str()], arguments, &["--bpffs", BPFFS]].concat())
    }

    /// What fw has written on R so far.
    pub(crate) fn second_log(&self) -> String {
        fs::read_to_string(self.lab.path(&format!("{FOLDER}/fw.log"))).unwrap_or_default()
    }

    /// Whether the containers on both hosts reach each other over the overlay.
    pub(crate) fn meet(&self) -> [bool; 2] {
        let reaches = |from: &Container, to: &Container| {
            from.place.ping(to.ip().expect("an address")).expect("a ping").reached()
        };
        [reaches(&self.here, &self.there), reaches(&self.there, &self.here)]
    }

    /// Waits until they do, or do not.
    #[track_caller]
    pub(crate) fn becomes(&self, meet: bool) {
        let found =
            wait::until("the overlay", Duration::from_secs(30), || (self.meet() == [meet; 2]).then_some(()));
        let logs = || format!("{:?}\n{}\n{}", self.lab.fw_drops(), self.lab.fw_log(), self.second_log());
        found.unwrap_or_else(|error| panic!("expected {meet}: {error:#}\n{}", logs()));
    }

    /// The rules of H by which the outside reaches something.
    pub(crate) fn reasons(&self) -> Vec<String> {
        reasons(&self.lab.fw_status().expect("fw status"))
    }

    /// A drop counter of H's uplink.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        let drops = self.lab.fw_drops().expect("the drop counters");
        drops.get(&("uplink_ingress".to_owned(), reason.to_owned())).copied().unwrap_or(0)
    }
}

/// Why something can be reached from outside, each reason once.
pub(crate) fn reasons(status: &Value) -> Vec<String> {
    let rows = status["exposure"].as_array().expect("a list");
    let mut reasons: Vec<String> =
        rows.iter().filter_map(|row| row["why"].as_str()).map(ToOwned::to_owned).collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

fn join(lab: &Lab) -> Result<()> {
    let token = lab.docker(&["swarm", "join-token", "-q", "worker"])?;
    let manager = format!("{HOST}:2377");
    second(lab, &["swarm", "join", "--advertise-addr", &OUTSIDE.to_string(), "--token", &token, &manager])
        .map(drop)
}

/// Runs `docker …` against R's daemon.
pub(crate) fn second(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let config = format!("{FOLDER}/cli");
    let mut argv = vec!["docker", "--config", &config, "-H", SOCKET];
    argv.extend(arguments);
    Ok(lab.outside().run(&argv)?.trim().to_owned())
}

/// Starts dockerd on R, or starts it again, and waits until it answers.
pub(crate) fn start_second(lab: &Lab) -> Result<()> {
    let line = format!(
        "mkdir -p {FOLDER}/cli; echo '{{}}' >{FOLDER}/daemon.json
         exec dockerd -H {SOCKET} --config-file {FOLDER}/daemon.json --data-root {FOLDER}/docker \
         --exec-root {FOLDER}/exec -p {FOLDER}/dockerd.pid --storage-driver vfs --cgroup-parent /{} \
         --default-address-pool base=10.201.0.0/16,size=24 >>{FOLDER}/dockerd.log 2>&1",
        lab.name()
    );
    lab.keep_running(lab.outside().command("sh").args(["-ec", &line]))?;
    wait::until("the other dockerd", Duration::from_mins(1), || second(lab, &["version"]).ok())?;
    if second(lab, &["image", "ls", "-q", "fwlab"])?.is_empty() {
        lab.outside().script(&format!("docker -H {} save fwlab | docker -H {SOCKET} load", lab::SOCKET))?;
    }
    Ok(())
}

/// Ends R's dockerd as a service manager would.
pub(crate) fn end_second(lab: &Lab) -> Result<()> {
    let script = format!("p=$(cat {FOLDER}/dockerd.pid); kill -TERM $p; cat /proc/$p/stat");
    let pid = lab.outside().script(&script)?;
    let pid = pid.split(' ').next().context("a process number")?.to_owned();
    wait::until("end of the other dockerd", Duration::from_secs(40), || {
        // A zombie waits for us, its parent, and is as good as gone.
        let state = lab.outside().run(&["cat", &format!("/proc/{pid}/stat")]);
        state.map_or(true, |state| state.contains(") Z ")).then_some(())
    })
}

/// A container of R's, and its address on the overlay.
pub(crate) fn inspect_second(lab: &Lab, name: &str) -> Result<Container> {
    let all: Value = serde_json::from_str(&second(lab, &["inspect", name])?)?;
    let pid = all[0]["State"]["Pid"].as_u64().context("it runs")?;
    let network = &all[0]["NetworkSettings"]["Networks"]["mesh"];
    Ok(Container {
        name: name.to_owned(),
        place: lab.place(name, &format!("/proc/{pid}/ns/net")),
        v4: network["IPAddress"].as_str().and_then(|text| text.parse().ok()),
        v6: None,
        gateway: None,
        mac: None,
    })
}

/// A host that R routes for, as a router in front of H would.
fn stranger(lab: &Lab) -> Result<Place> {
    let stranger = lab.further("s")?;
    lab.outside().script(
        "ip link add s0 type veth peer name eth0 netns s
         ip addr add 198.19.0.1/30 dev s0; ip link set s0 up
         ip -n s addr add 198.19.0.2/30 dev eth0; ip -n s link set eth0 up
         ip -n s route add default via 198.19.0.1
         echo 1 >/proc/sys/net/ipv4/ip_forward
         for way in i o; do iptables -w -I FORWARD -$way s0 -j ACCEPT; done",
    )?;
    Ok(stranger)
}

/// R's dockerd.
const SOCKET: &str = "unix:///run/docker-r.sock";
/// Where all of R's own lies.
const FOLDER: &str = "/run/lab-r";
/// Where R's fw has its pins.
const BPFFS: &str = "/sys/fs/bpf/fw-r";
