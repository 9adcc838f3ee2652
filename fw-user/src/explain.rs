//! What becomes of one packet, and why: run through the programs beside those in force, and told step by step.
//!
//! The kernel gives the verdict, by a test run of the very program on the tables in force. `decide` on the host gives the
//! steps: it is asked the same with a record of each lookup. Both must agree; where they do not, the kernel is right and
//! fw has a bug, and that is said. Nothing that is in force is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytemuck::Zeroable as _;
use fw_common::decide::{Workspace, marked};
use fw_common::tables::{Port, Route, Tables as _, link_layer, name_kind, role};
use fw_common::wire::{Arrival, Audience, Packet, VlanTag};
use fw_common::{Action, Hook, Mac, Mark, Reason, Verdict, decide};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::datapath::{Beside, DatapathError, Judged, Left, Maps, Running, Seen, running_at};
use crate::netlink::{self, Leads, Link};
use crate::plan::HookPoint;
use crate::view;

pub mod advice;
pub mod capture;
pub mod frame;
pub mod netfilter;
pub mod trace;

use trace::{Known, Step, Trace};

/// A frame at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The device.
    pub ifindex: u32,
    /// It leaves the host there, sent by the host itself; else it comes in.
    pub leaves: bool,
    /// Its bytes, from the link layer on.
    pub bytes: Vec<u8>,
}

/// What there is to explain packets with.
pub struct Explainer<'a> {
    /// What the tables say, with names.
    pub known: &'a Known<'a>,
    /// The programs.
    pub beside: Beside,
    /// The maps in force, with what packets have left; none where nothing is in force.
    pub live: Option<Maps>,
    /// The directory of pins, if the tables are those in force: there it is seen where programs run.
    pub pins: Option<&'a Path>,
    /// The devices.
    pub links: &'a [Link],
    /// What has been seen of it.
    pub running: BTreeMap<HookPoint, Option<Running>>,
}

/// What becomes of a packet, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// `accept`, `pass` or `drop`; `would-drop` while only observing; `not-judged` where no program runs.
    pub verdict: &'static str,
    /// Why, by its name in docs/reasons.md.
    pub reason: Option<&'static str>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Where that was decided.
    pub hook: Option<&'static str>,
    /// The device.
    pub device: String,
    /// What is vouched for: `in`, `out` or `reach`.
    pub mark: Option<&'static str>,
    /// What the reason means.
    pub meaning: Option<String>,
    /// Of a drop, what to do about it.
    pub advice: Option<String>,
    /// Of a drop, lines for the policy file that would let it pass.
    pub would_pass_with: Option<String>,
    /// The packet in words.
    pub packet: Summary,
    /// Each hook on its way, in order.
    pub hooks: Vec<AtHook>,
    /// The packet's mark behind the last hook.
    #[serde(skip)]
    pub mark_behind: u32,
    /// Whether it goes on into the host's IP.
    #[serde(skip)]
    pub goes_up: bool,
}

/// A packet in words.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The protocol, if it is IP and whole.
    pub proto: Option<String>,
    /// The source address.
    pub source: Option<String>,
    /// The source port, if the protocol has ports.
    pub source_port: Option<u16>,
    /// Who has the source address, as far as the tables tell.
    pub source_is: Option<String>,
    /// The destination address.
    pub destination: Option<String>,
    /// The destination port.
    pub destination_port: Option<u16>,
    /// Who has the destination address.
    pub destination_is: Option<String>,
    /// Flags of TCP or type of ICMP, and what else there is to say.
    pub detail: String,
    /// Bytes, with the link layer.
    pub bytes: usize,
    #[serde(skip)]
    pub(crate) parsed: Packet,
}

/// What one hook makes of the packet.
#[derive(Clone, Debug, Serialize)]
pub struct AtHook {
    /// The hook.
    pub hook: &'static str,
    /// The device.
    pub device: String,
    /// `accept`, `pass`, `drop`, `would-drop`, or `left` to the next hook.
    pub verdict: &'static str,
    /// Why.
    pub reason: Option<&'static str>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// What is vouched for.
    pub mark: Option<&'static str>,
    /// Who says so: `kernel`, or `decide` where the kernel has no test run for such a frame.
    pub by: &'static str,
    /// The tag of the program that was run.
    pub tag: Option<String>,
    /// Whether the program that runs there is the same; `None` where none does.
    pub same_program: Option<bool>,
    /// What else is to be said.
    pub notes: Vec<String>,
    /// The lookups.
    pub steps: Vec<Step>,
    #[serde(skip)]
    outcome: Outcome,
}

/// What matters of a hook for what comes next.
#[derive(Clone, Debug)]
struct Outcome {
    hook: Hook,
    ifindex: u32,
    reason: Option<Reason>,
    dropped: bool,
    would_drop: bool,
    mark: u32,
    packet: Packet,
    ports: Vec<Port>,
}

/// What `decide` says on the host, if the routing table says so.
struct Decided {
    verdict: Verdict,
    packet: Packet,
    steps: Vec<Step>,
    left: Left,
    ports: Vec<Port>,
    /// What the routing table was asked, and taken to say.
    routed: Option<(trace::Routed, Route)>,
}

impl Explainer<'_> {
    /// What becomes of this packet.
    pub fn explain(&mut self, frame: &Frame) -> Result<Explanation, DatapathError> {
        let device = self.known.state.tables.interface(frame.ifindex);
        let role = device.map_or(0, |device| device.role);
        let first = match role {
            _ if frame.leaves => Hook::UplinkEgress,
            role::PORT => Hook::PortIngress,
            role::BRIDGE => Hook::BridgeIngress,
            _ => Hook::UplinkIngress,
        };
        let mut hooks = Vec::new();
        if first == Hook::UplinkIngress && self.runs_at(Hook::UplinkXdp, frame.ifindex)? == Some(true) {
            hooks.push(self.judge(
                Hook::UplinkXdp,
                frame,
                Seen { ifindex: frame.ifindex, ..Seen::default() },
            )?);
        }
        let dropped = |hooks: &[AtHook]| hooks.last().is_some_and(|last| last.outcome.dropped);
        let judged_at_all = self.runs_at(first, frame.ifindex)? != Some(false);
        if !dropped(&hooks) && judged_at_all {
            hooks.push(self.judge(first, frame, Seen { ifindex: frame.ifindex, ..Seen::default() })?);
        }
        let mark = hooks.last().map_or(0, |last| last.outcome.mark);
        let mut goes_up = !frame.leaves && !dropped(&hooks);
        if first == Hook::PortIngress && !dropped(&hooks) {
            let next = self.behind_port(frame, mark);
            goes_up = next.is_some_and(|(hook, _)| hook == Hook::BridgeIngress);
            if let Some((hook, seen)) = next
                && self.runs_at(hook, seen.ifindex)? != Some(false)
            {
                hooks.push(self.judge(hook, frame, seen)?);
                goes_up &= !dropped(&hooks);
            }
        }
        let unjudged = if hooks.is_empty() {
            let seen = Seen { ifindex: frame.ifindex, ..Seen::default() };
            self.decided(first, frame, seen, clock())?.pop().map(|decided| decided.packet)
        } else {
            None
        };
        Ok(self.told(frame, hooks, unjudged, goes_up))
    }

    /// Whether a program runs at this hook; `None` where the tables are not in force.
    fn runs_at(&mut self, hook: Hook, ifindex: u32) -> Result<Option<bool>, DatapathError> {
        let Some(pins) = self.pins else { return Ok(None) };
        let point = HookPoint { ifindex, hook };
        if !self.running.contains_key(&point) {
            self.running.insert(point, running_at(pins, point, self.links)?);
        }
        Ok(self.running.get(&point).map(Option::is_some))
    }

    /// The next hook behind that of a container's port: the bridge's, or that of the neighbour's port.
    fn behind_port(&self, frame: &Frame, mark: u32) -> Option<(Hook, Seen)> {
        let tables = &self.known.state.tables;
        let port = tables.interface(frame.ifindex)?;
        let to = frame.bytes.first_chunk::<6>().map_or(Mac::default(), |bytes| Mac { bytes: *bytes });
        let bridge = self.links.iter().find(|link| link.index == port.network);
        let is_bridges = bridge.is_some_and(|bridge| bridge.mac.is_some_and(|mac| mac.0 == to.bytes));
        if to.is_group() || is_bridges {
            return Some((Hook::BridgeIngress, Seen { ifindex: port.network, ingress_ifindex: 0, mark }));
        }
        let mut endpoints = tables.endpoints.values();
        let neighbour = endpoints.find(|known| known.network == port.network && known.mac == to)?;
        let seen = Seen { ifindex: neighbour.port, ingress_ifindex: frame.ifindex, mark };
        // Elsewhere there is none, or one that lets everything pass.
        let apart = tables.network(port.network).is_some_and(|network| network.icc == 0)
            || tables.interface(neighbour.port).is_some_and(|device| device.apart != 0);
        (neighbour.port != 0 && apart).then_some((Hook::PortEgress, seen))
    }

    fn told(
        &self,
        frame: &Frame,
        hooks: Vec<AtHook>,
        unjudged: Option<Packet>,
        goes_up: bool,
    ) -> Explanation {
        let ends = hooks.iter().find(|hook| hook.outcome.would_drop);
        let decides = ends.or_else(|| hooks.iter().find(|hook| hook.outcome.hook != Hook::UplinkXdp));
        let packet = decides.or(hooks.first()).map(|hook| hook.outcome.packet);
        let packet = packet.or(unjudged).unwrap_or(Packet::zeroed());
        let reason = decides.and_then(|hook| hook.outcome.reason);
        let words = reason.filter(|reason| *reason != Reason::OtherHost).map(advice::of);
        let drops = decides.is_some_and(|hook| hook.outcome.would_drop);
        let would_pass_with = decides.filter(|hook| hook.outcome.would_drop).and_then(|hook| {
            let Outcome { hook, ifindex, reason, packet, ports, .. } = &hook.outcome;
            advice::policy(self.known, *hook, *ifindex, packet, (*reason)?, ports)
        });
        Explanation {
            verdict: decides.map_or("not-judged", |hook| hook.verdict),
            reason: reason.map(Reason::name),
            rule: decides.and_then(|hook| hook.rule.clone()),
            hook: decides.map(|hook| hook.hook),
            device: self.known.device(frame.ifindex),
            mark: decides.and_then(|hook| hook.mark),
            meaning: words.as_ref().map(|(meaning, _)| meaning.clone()),
            advice: words.filter(|_| drops).map(|(_, advice)| advice),
            would_pass_with,
            packet: self.summary(&packet, frame),
            mark_behind: hooks.last().map_or(0, |last| last.outcome.mark),
            goes_up: goes_up && reason != Some(Reason::OtherHost),
            hooks,
        }
    }

    fn summary(&self, packet: &Packet, frame: &Frame) -> Summary {
        let ip = packet.version != 0;
        let has_ports = packet.source_port != 0 || packet.destination_port != 0;
        let ports = has_ports && !packet.is_icmp();
        let mut detail = Vec::new();
        if packet.tcp_flags != 0 {
            detail.push(format!("flags {}", flags(packet.tcp_flags)));
        }
        if packet.is_icmp() {
            detail.push(format!("type {} code {}", packet.icmp_type, packet.icmp_code));
            if has_ports {
                detail.push(format!("identifier {}", packet.source_port | packet.destination_port));
            }
        }
        if ip && !matches!(packet.fragment(), fw_common::wire::Fragment::Whole) {
            detail.push("a fragment".to_owned());
        }
        if !ip {
            detail.push("no whole IP packet".to_owned());
        }
        Summary {
            proto: ip.then(|| view::protocol(packet.protocol)),
            source: ip.then(|| packet.source.to_string()),
            source_port: ports.then_some(packet.source_port),
            source_is: self.known.who(&packet.source).filter(|_| ip),
            destination: ip.then(|| packet.destination.to_string()),
            destination_port: ports.then_some(packet.destination_port),
            destination_is: self.known.who(&packet.destination).filter(|_| ip),
            detail: detail.join(", "),
            bytes: frame.bytes.len(),
            parsed: *packet,
        }
    }

    /// What this hook makes of the frame.
    fn judge(&mut self, hook: Hook, frame: &Frame, seen: Seen) -> Result<AtHook, DatapathError> {
        let mut notes = Vec::new();
        let tables = &self.known.state.tables;
        let observing = tables.settings.observe != 0;
        let named = self.known.state.names.keys().filter(|key| key.kind == name_kind::RULE);
        let rules: BTreeSet<u32> = named.map(|key| key.id).collect();
        let has_ethernet =
            tables.interface(seen.ifindex).is_none_or(|device| device.link_layer != link_layer::NONE);
        let mut attempts = 0;
        let (run, decided, agree) = loop {
            attempts += 1;
            let clock = clock();
            let mut decided = self.decided(hook, frame, seen, clock)?;
            let left = all(&decided);
            let run = if has_ethernet {
                self.beside.run(hook, &frame.bytes, seen, &left, rules.iter().copied())
            } else {
                Err(no_test_run())
            };
            let run = match run {
                Ok(run) => Some(run),
                Err(
                    error @ (DatapathError::Load(_)
                    | DatapathError::Program { .. }
                    | DatapathError::Map { .. }),
                ) => {
                    return Err(error);
                }
                Err(error) => {
                    let why = crate::reconcile::chain(&error);
                    notes = vec![format!(
                        "the kernel has no test run for this frame, so decide on the host judged it: {why}"
                    )];
                    None
                }
            };
            let same = |decided: &Decided| match run {
                Some(run) => is_alike(hook, &run, decided.verdict, seen, tables.settings),
                None => decided.routed.is_none_or(|(asked, route)| routes(asked, seen.mark) == route),
            };
            let chosen = decided.iter().position(same);
            // A second may have begun in between, and a flow be over.
            if chosen.is_some() || clock == self::clock() || attempts == ATTEMPTS {
                break (run, decided.swap_remove(chosen.unwrap_or(0)), chosen.is_some());
            }
        };
        let Decided { verdict, packet, steps, ports, .. } = decided;
        if let (false, Some(run)) = (agree, run) {
            notes.push(format!(
                "the kernel says {} where decide says {}: the kernel is right, the steps are decide's, and this is a bug \
                 of fw; please report it with this output",
                run.reason.map_or("nothing", Reason::name),
                verdict.reason.name()
            ));
        }
        let early = hook == Hook::UplinkXdp;
        let reason = match run {
            Some(run) => run.reason.or((!early).then_some(Reason::OtherHost)),
            None => Some(verdict.reason).filter(|reason| !early || reason.is_drop()),
        };
        let would_drop = reason.is_some_and(Reason::is_drop) && !(early && observing);
        let dropped = run.map_or(would_drop && !observing, |run| run.dropped);
        let mark = run.map_or_else(|| mark_behind(hook, verdict, seen.mark, tables.settings), |run| run.mark);
        let mark = if early { 0 } else { mark };
        let (tag, same_program) = self.program(hook, seen.ifindex, &mut notes)?;
        if hook == Hook::UplinkXdp && observing {
            notes.push("XDP drops nothing while only observing".to_owned());
        }
        let rule = run.map_or(verdict.rule, |run| run.rule);
        Ok(AtHook {
            hook: hook.name(),
            device: self.known.device(seen.ifindex),
            verdict: match (dropped, would_drop, reason) {
                (true, ..) => "drop",
                (false, true, _) => "would-drop",
                (.., None) => "left",
                (.., Some(reason)) if (reason as u8) < Reason::AllowRule as u8 => "pass",
                _ => "accept",
            },
            reason: reason.map(Reason::name),
            rule: self.known.rule(rule),
            mark: named_mark(mark, tables.settings.mark_bit),
            by: if run.is_some() { "kernel" } else { "decide" },
            tag,
            same_program,
            notes,
            steps,
            outcome: Outcome {
                hook,
                ifindex: seen.ifindex,
                reason,
                dropped,
                would_drop,
                mark,
                packet,
                ports,
            },
        })
    }

    /// The tag of the program that was run, and whether the one at the hook has the same.
    fn program(
        &mut self,
        hook: Hook,
        ifindex: u32,
        notes: &mut Vec<String>,
    ) -> Result<(Option<String>, Option<bool>), DatapathError> {
        let ours = self.beside.tag(hook)?;
        let running = self.running.get(&HookPoint { ifindex, hook }).copied().flatten();
        let theirs = running.and_then(|running| running.tag);
        let same = theirs.map(|theirs| theirs == ours);
        if same == Some(false) {
            notes.push(format!(
                "WARNING: the program that runs there is another one (tag {:016x}): the daemon is of another build; what it \
                 decides may differ, and its own fw explains it",
                theirs.unwrap_or_default()
            ));
        }
        Ok((Some(format!("{ours:016x}")), same))
    }

    /// What `decide` says, once for each answer that the routing table may give, if it asks that.
    fn decided(
        &self,
        hook: Hook,
        frame: &Frame,
        seen: Seen,
        clock: (u32, u32),
    ) -> Result<Vec<Decided>, DatapathError> {
        let arrival = self.arrival(frame, seen);
        let mut all = Vec::new();
        for route in [Route::Forwarded, Route::Local] {
            let tables = Trace::new(self.known, self.beside.tables(), self.live.as_ref(), route, clock);
            let mut work = Workspace::zeroed();
            let verdict = decide(hook, &arrival, &frame.bytes[..], &tables, &mut work);
            let asked = tables.end()?;
            let trace::Asked { steps, left, routed, ports } = asked;
            let asked = routed.map(|asked| (asked, route));
            all.push(Decided { verdict, packet: work.packet, steps, left, ports, routed: asked });
            if routed.is_none() {
                break;
            }
        }
        Ok(all)
    }

    /// What the kernel reads in the frame as it comes in (`eth_type_trans`).
    fn arrival(&self, frame: &Frame, seen: Seen) -> Arrival {
        let Seen { ifindex, ingress_ifindex, mark } = seen;
        let device = self.known.state.tables.interface(ifindex);
        let (ethertype, audience) = if device.is_some_and(|device| device.link_layer == link_layer::NONE) {
            let v6 = frame.bytes.first().is_some_and(|first| first >> 4 == 6);
            let ethertype = fw_common::wire::ethertype::IPV6;
            (if v6 { ethertype } else { fw_common::wire::ethertype::IPV4 }, Audience::Host)
        } else {
            let to = frame.bytes.first_chunk::<6>().map_or(Mac::default(), |bytes| Mac { bytes: *bytes });
            let own = self.links.iter().find(|link| link.index == ifindex).and_then(|link| link.mac);
            let audience = match to {
                to if own.is_some_and(|own| own.0 == to.bytes) => Audience::Host,
                to if to.bytes == [0xff; 6] => Audience::Broadcast,
                to if to.is_group() => Audience::Multicast,
                _ => Audience::Other,
            };
            let ethertype = frame.bytes.get(12..14).and_then(|bytes| bytes.try_into().ok());
            (ethertype.map_or(0, u16::from_be_bytes), audience)
        };
        Arrival { ifindex, ingress_ifindex, ethertype, vlan: VlanTag::NONE, audience, mark, owner: 0 }
    }
}

/// Where the kernel would send the packet; what it does not forward ends here, as the programs have it.
fn routes((source, destination, ifindex): trace::Routed, mark: u32) -> Route {
    match netlink::route(source.into(), destination.into(), ifindex, mark) {
        Ok(Leads::Out(_)) => Route::Forwarded,
        Ok(Leads::Here | Leads::Nowhere(_)) | Err(_) => Route::Local,
    }
}

/// How often a packet is judged while the clock goes on.
const ATTEMPTS: u32 = 3;

fn no_test_run() -> DatapathError {
    DatapathError::Hook {
        what: "run a program on a frame without an Ethernet header".to_owned(),
        source: "BPF_PROG_TEST_RUN always puts one before it".into(),
    }
}

fn all(decided: &[Decided]) -> Left {
    let mut all = Left::default();
    for Decided { left, .. } in decided {
        all.flows.extend(&left.flows);
        all.inbound_flows.extend(&left.inbound_flows);
        all.buckets.extend(&left.buckets);
        all.datagrams.extend(&left.datagrams);
    }
    all
}

/// Whether the kernel has made of the packet what this verdict says.
fn is_alike(
    hook: Hook,
    run: &Judged,
    verdict: Verdict,
    seen: Seen,
    settings: fw_common::tables::Settings,
) -> bool {
    let observing = settings.observe != 0;
    let drops = verdict.action == Action::Drop && !observing;
    if hook == Hook::UplinkXdp {
        let counted = drops.then_some((verdict.reason, verdict.rule));
        return run.reason.map(|reason| (reason, run.rule)) == counted && run.dropped == drops;
    }
    let counted = Some(verdict.reason).filter(|reason| *reason != Reason::OtherHost);
    (run.dropped, run.reason, run.rule, run.mark)
        == (drops, counted, verdict.rule, mark_behind(hook, verdict, seen.mark, settings))
}

/// The mark of a packet behind a hook that gave this verdict.
fn mark_behind(hook: Hook, verdict: Verdict, before: u32, settings: fw_common::tables::Settings) -> u32 {
    let ends_here = hook == Hook::BridgeIngress && verdict.reason == Reason::ToHost;
    if !(matches!(hook, Hook::UplinkIngress | Hook::PortIngress) || ends_here) {
        return before;
    }
    let field = if settings.observe != 0 { Mark::None } else { verdict.mark };
    marked(before, field, settings.mark_bit)
}

fn named_mark(mark: u32, bit: u8) -> Option<&'static str> {
    match mark >> (bit & 31) & 3 {
        1 => Some("in"),
        2 => Some("out"),
        3 => Some("reach"),
        _ => None,
    }
}

fn flags(flags: u8) -> String {
    let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    let set = names.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

/// Seconds and milliseconds on the clock that the programs read.
fn clock() -> (u32, u32) {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE);
    now.map_or((0, 0), |now| {
        let milliseconds = now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000;
        (now.tv_sec().cast_unsigned() as u32, milliseconds.cast_unsigned() as u32)
    })
}
