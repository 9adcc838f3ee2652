//! How large it may grow: what a verdict, a start and memory take with a million flows, a million prefixes and thousands of
//! networks and containers, beside the same with one of each.
//!
//! Nobody but fw touches a packet here: there are no rules in iptables, and so no connection tracking, whose table holds
//! fewer connections than these are. What is measured are frames that the container sends to a client, and that a client
//! sends back: all of them visit fw's hooks, and are routed.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::crowd::{self, Crowd, Size};
use super::sample::{alone, spent};
use super::sheet::Sheet;
use super::told::{self, Pass};
use super::traffic::{Client, Generator, Sink, Way};
use crate::lab::frame::Mac;
use crate::lab::{HOST, HOST_MAC, OUTSIDE, OUTSIDE_MAC};
use crate::setup::{self, Part};
use crate::workspace;

/// The container that is measured, behind the first network's bridge.
const NAMESPACE: &str = "measured";
const MAC: Mac = Mac([2, 0x42, 0, 0, 0, 0]);
const ROUNDS: usize = 15;
/// Packets of one sample: 10 to 30 ms.
const PACKETS: u32 = 32_768;
/// Clients live here, behind R.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
/// A port that members of the large set may reach, and nobody's.
const FOR_MEMBERS: u16 = 22;
const UNWANTED: u16 = 9;

type Sampled = fn(&Grown) -> Result<f64>;

/// One of two hosts.
struct Grown {
    uplink: u32,
    port: u32,
    out: Generator,
    /// The same once more, ahead of `back`: both count their flows by themselves.
    ahead: Generator,
    back: Generator,
    member: Generator,
    unwanted: Generator,
    in_container: Sink,
    at_client: Sink,
    _queues: [OwnedFd; 2],
    crowd: Crowd,
}

/// Measures.
pub(super) fn run() -> Result<()> {
    setup::ensure(&[Part::Build, Part::Lab])?;
    let fw = workspace::build_release_fw()?;
    let mut sheet = Sheet::begin("scale", false, "release")?;
    let one = Size { networks: 1, containers: 1, ports: 1, alive: false };
    let many = Size { networks: 1000, containers: 10_000, ports: 10_000, alive: false };
    let few = Grown::grow(&mut sheet, &fw, one, 1, 64)?;
    let all = Grown::grow(&mut sheet, &fw, many, 1_000_000, 1 << 20)?;

    Sheet::about("a packet on its way through the host, CPU time, by turns");
    let ways: [(&str, Sampled); 4] = [
        ("out of the container, of a known flow", Grown::sample_out),
        ("its answer", Grown::sample_back),
        ("dropped: nobody's port", |host| host.sample_dropped(&host.unwanted)),
        ("dropped: a port for a set in which the source is not", |host| host.sample_dropped(&host.member)),
    ];
    for (what, way) in ways {
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            small.push(way(&few)?);
            large.push(way(&all)?);
        }
        sheet.add(format!("{what}: one of each"), "ns", &small, None)?;
        sheet.add(format!("{what}: all"), "ns", &large, None)?;
        let ratios: Vec<f64> = large.iter().zip(&small).map(|(large, small)| large / small).collect();
        sheet.add(format!("{what}: all / one of each"), "", &ratios, None)?;
    }
    sheet.end()
}

impl Grown {
    /// Makes a host with so many of each, has fw filter it, and has the container talk to so many clients.
    fn grow(sheet: &mut Sheet, fw: &Path, size: Size, prefixes: u32, flows: u32) -> Result<Self> {
        let Size { networks, containers, ports, .. } = size;
        Sheet::about(&format!(
            "{networks} networks, {containers} containers, {ports} published ports, {prefixes} prefixes, {flows} flows"
        ));
        let crowd = Crowd::gather(size, told::LOG)?;
        let lab = crowd.lab();
        let [gateway, address] = [1, 250].map(|host| crowd::address(0, host));
        lab.further(NAMESPACE)?;
        let place = lab.place(NAMESPACE, &format!("/run/netns/{NAMESPACE}"));
        lab.host().script(&format!(
            "
            ip link add vm type veth peer name eth0 address {MAC} netns {NAMESPACE}
            ip link set vm master br0; ip link set vm up
            ip -n {NAMESPACE} addr add {address}/24 dev eth0
            ip -n {NAMESPACE} link set eth0 up
            ip -n {NAMESPACE} route add default via {gateway}
            ip neigh replace {address} lladdr {MAC} dev br0 nud permanent
            ip neigh replace {OUTSIDE} lladdr {OUTSIDE_MAC} dev eth0 nud permanent
            ip route replace {CLIENTS}/24 via {OUTSIDE}
            "
        ))?;
        crowd.settle_in(NAMESPACE, address, &MAC.to_string())?;
        let mut set = String::new();
        for number in 0..prefixes {
            // Of 20 to 30 bits, below 128.0.0.0: no address of the lab is among them.
            let length = 20 + number % 11;
            let network = number.wrapping_mul(2_654_435_769) & u32::MAX << (32 - length) & 0x7fff_ffff;
            writeln!(set, "{}/{length}", Ipv4Addr::from_bits(network | 1 << 24))?;
        }
        std::fs::write(lab.path("/run/lab/many.txt"), set)?;
        let last = usize::from(crowd::FIRST_PORT) + ports - 1;
        let policy = format!(
            "[uplink]\nxdp = \"off\"\n[tables]\nflows = 1200000\nflows_per_container = 1200000\nprefixes = 1100000\n\
             [sets]\nmany = {{ file = \"many.txt\" }}\n\
             [[allow]]\nname = \"published\"\nproto = \"tcp\"\nports = [\"{}-{last}\"]\n\
             [[allow]]\nname = \"members\"\nproto = \"udp\"\nports = [{FOR_MEMBERS}]\nfrom = [\"many\"]\n",
            crowd::FIRST_PORT
        );
        // It stays when this handle is gone, until the lab is.
        std::mem::forget(lab.fw_begin(fw, &policy, &["--docker", crowd::SOCKET])?);
        let ready = told::ready(lab, Duration::from_mins(10))?;
        let first = told::passes(lab).into_iter().next().context("a first pass")?;
        sheet.add("first start: until ready", "s", &[ready], None)?;
        sheet.add("first start: hooks attached", "", &[first.number("changed")?], None)?;
        sheet.add("first start: their time", "s", &[first.clock_ms("hooks")? / 1e3], None)?;
        sheet.add("first start: entries written and read back", "", &[first.operations()?], None)?;
        sheet.add(
            "first start: tables worked out, written, read back (CPU)",
            "ms",
            &[first.tables_ms()?],
            None,
        )?;
        let mut full = Vec::new();
        crate::lab::wait::until("a pass of the period", Duration::from_mins(1), || {
            full = told::passes(lab).into_iter().filter(Pass::is_full).skip(1).collect();
            (!full.is_empty()).then_some(())
        })?;
        let own = full.iter().map(Pass::own_ms).collect::<Result<Vec<_>>>()?;
        sheet.add("full pass, every 10 s: own CPU time", "ms", &own, None)?;
        sheet.add("memory of the idle daemon (RSS)", "MB", &[told::resident(lab)?], None)?;
        sheet.add("memory of the maps", "MB", &[told::map_memory(lab)?], None)?;

        let (host, bridge) = (lab.host(), lab.host().run(&["cat", "/sys/class/net/br0/address"])?);
        let bridge: Mac = bridge.trim().parse().map_err(anyhow::Error::msg)?;
        // Has them register their queues for XDP, which a veth does when a program is attached in its driver.
        let queues = [host.attach_xdp("eth0")?, host.attach_xdp("vm")?];
        let [uplink, port] = host.within(|| ["eth0", "vm"].map(if_nametoindex))?;
        let (uplink, port) = (uplink?, port?);
        let from_container = |flows| {
            let ends = ((address.into(), 5000), (CLIENTS.into(), 0));
            Generator::new((MAC, bridge), ends.0, ends.1, Client::Destination, flows, Way::Up)
        };
        let from_client = |to: (IpAddr, u16), flows| {
            Generator::new((OUTSIDE_MAC, HOST_MAC), (CLIENTS.into(), 0), to, Client::Source, flows, Way::Up)
        };
        let grown = Self {
            uplink,
            port,
            out: from_container(flows)?,
            ahead: from_container(flows)?,
            back: from_client((address.into(), 5000), flows)?,
            member: from_client((HOST.into(), FOR_MEMBERS), 64)?,
            unwanted: from_client((HOST.into(), UNWANTED), 64)?,
            in_container: Sink::attach(&place, "eth0")?,
            at_client: Sink::attach(lab.outside(), "eth0")?,
            _queues: queues,
            crowd,
        };
        for _ in 0..flows.div_ceil(PACKETS) {
            grown.sample_out()?;
        }
        sheet.add(
            "memory of the maps, with the flows",
            "MB",
            &[told::map_memory(grown.crowd.lab())?],
            None,
        )?;
        Ok(grown)
    }

    fn sample_out(&self) -> Result<f64> {
        self.sample(&self.out, self.port, &self.at_client, PACKETS..=PACKETS)
    }

    /// Answers to what was sent just before: places among the flows of one container are drawn, and some that are new push
    /// out others, whose answers nobody knows any more.
    fn sample_back(&self) -> Result<f64> {
        self.sample(&self.ahead, self.port, &self.at_client, PACKETS..=PACKETS)?;
        self.sample(&self.back, self.uplink, &self.in_container, PACKETS / 10 * 9..=PACKETS)
    }

    fn sample_dropped(&self, generator: &Generator) -> Result<f64> {
        self.sample(generator, self.uplink, &self.in_container, 0..=0)
    }

    /// Nanoseconds for a packet; an error if not as many arrived as should.
    fn sample(
        &self,
        generator: &Generator,
        by: u32,
        sink: &Sink,
        expected: RangeInclusive<u32>,
    ) -> Result<f64> {
        let before = sink.arrived()?;
        let took = self.crowd.lab().host().within(|| {
            alone(|| {
                let begun = spent()?;
                generator.send(by, PACKETS)?;
                anyhow::Ok(spent()?.saturating_sub(begun))
            })?
        })??;
        let arrived = sink.arrived()? - before;
        ensure!(
            u32::try_from(arrived).is_ok_and(|arrived| expected.contains(&arrived)),
            "{arrived} packets arrived, {expected:?} should have; fw has dropped: {:?}",
            self.crowd.lab().fw_drops()?
        );
        Ok(took.as_secs_f64() * 1e9 / f64::from(PACKETS))
    }
}
