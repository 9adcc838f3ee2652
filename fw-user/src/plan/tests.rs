//! What a plan is: nothing to do for what is there already, and on the way nobody is let in or kept out by accident.

mod hosts;
mod packets;

use bytemuck::Zeroable as _;
use fw_common::decide::{Workspace, marked};
use fw_common::tables::Terms;
use fw_common::tables::memory::longest;
use fw_common::wire::Arrival;
use fw_common::{Mark, Verdict, decide};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use hosts::Host;
use packets::{Journey, journeys};

/// The same hosts in every run, so that a change is judged and not luck; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` try
/// others, and more.
fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    let fixed = match given.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0x5eed),
        RngSeed::Fixed(seed) => RngSeed::Fixed(seed),
    };
    // proptest's own number would take minutes.
    let cases = if given.cases == 256 { 40 } else { given.cases };
    ProptestConfig { cases, rng_seed: fixed, ..given }
}

fn zone_tables() -> impl Strategy<Value = BTreeMap<Prefix, Zones>> {
    let prefix =
        (0u8..4, 120u32..=128).prop_map(|(last, bits)| Prefix::new(Address::v4([10, 0, 0, last]), bits));
    prop::collection::btree_map(prefix, (0u64..8).prop_map(|zones| Zones { zones }), 0..8)
}

proptest! {
    #[test]
    fn every_prefix_of_a_plan_gives_each_address_its_old_or_new_or_united_zones(
        old in zone_tables(),
        new in zone_tables(),
    ) {
        let mut state = State::default();
        state.tables.sources = old.clone().into();
        let mut desired = State::default();
        desired.tables.sources = new.clone().into();
        for step in plan(&state.clone(), &desired) {
            apply(&mut state, &step);
            for last in 0..4 {
                let address = Address::v4([10, 0, 0, last]);
                let zones = |table| longest(table, &address).map_or(0, |held: Zones| held.zones);
                let (before, after, now) = (zones(&old), zones(&new), zones(&state.tables.sources));
                prop_assert!(now == before || now == after || now == before | after);
            }
        }
        prop_assert_eq!(state.tables.sources, new.into());
    }
}

proptest! {
    #![proptest_config(config())]

    /// The promise of the plan, kept by the very decisions that the kernel makes.
    #[test]
    fn on_the_way_a_packet_passes_if_old_and_new_pass_it_and_only_if_one_of_them_does(
        old in hosts::any(),
        new in hosts::any(),
        slice in 0..SLICES,
    ) {
        let old = old.state(&State::default());
        let new = new.state(&old);
        holds_on_the_way(&old, &new, slice)?;
    }

    /// What is there when fw starts for the first time: no table, no hook, and every packet passes.
    #[test]
    fn at_the_first_start_too(new in hosts::any(), slice in 0..SLICES) {
        let nothing = State::default();
        holds_on_the_way(&nothing, &new.state(&nothing), slice)?;
    }
}

/// Each case tries one in so many of the journeys: all of them after every step would take minutes.
const SLICES: usize = 16;

fn holds_on_the_way(old: &State, new: &State, slice: usize) -> Result<(), TestCaseError> {
    let mut state = old.clone();
    let expected: Vec<(Journey, bool, bool)> = journeys()
        .into_iter()
        .skip(slice)
        .step_by(SLICES)
        .map(|journey| {
            let passes = |state: &State| passes(state, &journey).is_ok();
            let (before, after) = (passes(old), passes(new));
            (journey, before, after)
        })
        .collect();
    let steps = plan(old, new);
    for (done, step) in steps.iter().enumerate() {
        apply(&mut state, step);
        for (journey, before, after) in &expected {
            let now = passes(&state, journey);
            let reason = now.err().map(|verdict| verdict.reason);
            let may_drop = moves(old, new, journey);
            let when = || {
                format!("{}: {before} -> {after}, and after step {done}, {step:?}: {reason:?}", journey.name)
            };
            let may_pass = *before || *after || slips(old, new, journey);
            prop_assert!(now.is_err() || may_pass, "passes {}\n{:#?}", when(), &steps[..=done]);
            prop_assert!(
                now.is_ok() || may_drop || !(*before && *after),
                "dropped {}\n{:#?}",
                when(),
                &steps[..=done]
            );
        }
    }
    prop_assert!(state == *new, "the plan does not lead to what was wanted");
    Ok(())
}

/// Whether a packet may be dropped on the way although it passes before and after: see the plan.
fn moves(old: &State, new: &State, journey: &Journey) -> bool {
    if *old == State::default() {
        return speaks_for_nobody(new, journey);
    }
    let changes = |(hook, arrival): &(Hook, Arrival)| {
        let point = HookPoint { ifindex: arrival.ifindex, hook: *hook };
        match (old.hooks.contains(&point), new.hooks.contains(&point)) {
            (false, true) => true,
            (true, false) => matches!(hook, Hook::UplinkIngress | Hook::PortIngress),
            _ => false,
        }
    };
    let to = LocalKey::new(journey.destination, 0);
    let is_ours = |state: &State| state.tables.local_addresses.contains_key(&to);
    let to_neighbour = journey.way.iter().any(|(hook, _)| *hook == Hook::PortEgress);
    let ports = journey.way.iter().filter(|_| to_neighbour).map(|(_, arrival)| arrival.ifindex);
    let known = |port| old.tables.interfaces.get(&port).or_else(|| new.tables.interfaces.get(&port));
    let icc = |state: &State, network| state.tables.networks.get(&network).map(|network| network.icc);
    let icc_turns = |port| known(port).is_some_and(|it| icc(old, it.network) != icc(new, it.network));
    // A container under terms of its own, on a network that begins or ceases to allow spoofing: only one side's hold. Or
    // one that is known no more, while the terms of its network change: in between it is judged by the old ones.
    let apart = |state: &State, ifindex: u32| {
        let interface = state.tables.interfaces.get(&ifindex);
        let network = interface.and_then(|interface| state.tables.networks.get(&interface.network));
        interface.map(|interface| interface.terms) != network.map(|network| network.terms)
    };
    let turns = |ifindex: u32| {
        let network = [new, old].iter().find_map(|state| state.tables.interfaces.get(&ifindex));
        let network = network.map_or(0, |interface| interface.network);
        let known = |state: &State| state.tables.interfaces.get(&ifindex).map(|it| it.endpoint_known);
        let terms = |state: &State| state.tables.networks.get(&network).map(|network| network.terms);
        let spoofs = |state: &State| spoofing(&state.tables, network);
        let vanishes = known(old) != known(new) && terms(old) != terms(new);
        (spoofs(old) != spoofs(new) || vanishes) && (apart(old, ifindex) || apart(new, ifindex))
    };
    let network = |state: &State| longest(&state.tables.subnets, &journey.destination);
    // A container that comes onto an uplink while somebody is denied or limited no more.
    let on_uplinks = |state: &State| {
        let endpoints = state.tables.endpoints.iter().filter(|(_, endpoint)| endpoint.network == 0);
        (state.tables.stations.clone(), endpoints.map(|(key, _)| *key).collect::<Vec<_>>())
    };
    let comes = || {
        let narrowed = old.tables.denied != new.tables.denied || old.tables.limits != new.tables.limits;
        narrowed && on_uplinks(old) != on_uplinks(new)
    };
    // Before by its MAC address one of them, after by its address, or the other way round.
    let told_by = |state: &State| {
        let mac = journey.frame.get(6..12).and_then(|mac| mac.try_into().ok()).map(|bytes| Mac { bytes });
        let endpoint = state.tables.endpoints.get(&journey.source);
        (
            mac.is_some_and(|mac| state.tables.stations.contains_key(&mac)),
            endpoint.map(|it| it.network) == Some(0),
        )
    };
    let turns_into_another =
        journey.way.iter().any(|(hook, _)| *hook == Hook::UplinkEgress) && told_by(old) != told_by(new);
    let to_uplink = journey.way.iter().any(|(hook, _)| *hook == Hook::UplinkIngress);
    (to_uplink && comes())
        || turns_into_another
        || journey.way.iter().any(changes)
        || is_ours(old) != is_ours(new)
        || (network(old) != network(new) && old.tables.reach != new.tables.reach)
        || (network(old) != network(new) && direct(old, journey) != direct(new, journey))
        || ports.into_iter().any(icc_turns)
        || journey.way.first().is_some_and(|(_, arrival)| turns(arrival.ifindex))
}

/// Whether only the port tells under whose terms a packet is: a container under terms of its own uses an address, of IP or
/// Ethernet, that it was not given, where its network allows that.
fn speaks_for_nobody(state: &State, journey: &Journey) -> bool {
    let holder = state.tables.endpoints.get(&journey.source);
    let holder = holder.filter(|holder| journey.frame.get(6..12) == Some(&holder.mac.bytes[..]));
    let holder = holder.map(|holder| holder.port);
    journey.way.iter().any(|(hook, arrival)| {
        let Some(interface) = state.tables.interfaces.get(&arrival.ifindex) else { return false };
        let network = state.tables.networks.get(&interface.network);
        *hook == Hook::PortIngress
            && holder != Some(arrival.ifindex)
            && network.is_some_and(|network| network.spoofing != 0 && network.terms != interface.terms)
    })
}

/// Whether a packet may pass on the way although it does neither before nor after: see the plan.
fn slips(old: &State, new: &State, journey: &Journey) -> bool {
    let to = LocalKey::new(journey.destination, 0);
    let is_ours = |state: &State| state.tables.local_addresses.contains_key(&to);
    let unlike_its_network = |ifindex: u32| {
        let interface = new.tables.interfaces.get(&ifindex);
        let network = interface.and_then(|interface| new.tables.networks.get(&interface.network));
        interface.map(|interface| interface.terms) != network.map(|network| network.terms)
    };
    let is_born = journey.way.iter().any(|(hook, arrival)| {
        let point = HookPoint { ifindex: arrival.ifindex, hook: *hook };
        *hook == Hook::PortIngress
            && !old.hooks.contains(&point)
            && new.hooks.contains(&point)
            && unlike_its_network(arrival.ifindex)
    });
    let leaves = journey.way.iter().any(|(hook, arrival)| {
        let point = HookPoint { ifindex: arrival.ifindex, hook: *hook };
        let terms = |state: &State, network| state.tables.networks.get(&network).map(|found| found.terms);
        let network = old.tables.interfaces.get(&arrival.ifindex).map_or(0, |interface| interface.network);
        *hook == Hook::PortIngress
            && old.hooks.contains(&point)
            && !new.hooks.contains(&point)
            && terms(old, network) != terms(new, network)
    });
    let by_container = journey.way.iter().any(|(hook, _)| *hook == Hook::BridgeIngress);
    let network = |state: &State, ifindex| state.tables.interfaces.get(&ifindex).map(|found| found.network);
    let turns = journey.way.iter().any(|(_, arrival)| {
        let network = network(new, arrival.ifindex).or(network(old, arrival.ifindex)).unwrap_or(0);
        spoofing(&old.tables, network) != spoofing(&new.tables, network)
    });
    let reach_turns = old.tables.reach != new.tables.reach
        && [old, new].iter().any(|state| longest(&state.tables.subnets, &journey.destination).is_some());
    let stands = |state: &State, ifindex: u32| {
        let interface = state.tables.interfaces.get(&ifindex).copied();
        (interface, interface.and_then(|it| state.tables.networks.get(&it.network).copied()))
    };
    let sender_turns =
        journey.way.iter().any(|(_, arrival)| stands(old, arrival.ifindex) != stands(new, arrival.ifindex));
    let holder = |state: &State| state.tables.endpoints.get(&journey.source).copied();
    is_born
        || leaves
        || (by_container && sender_turns && holder(old) != holder(new))
        || (by_container && sender_turns && direct(old, journey) != direct(new, journey))
        || (by_container && reach_turns)
        || (by_container && (turns || is_ours(old) != is_ours(new)))
}

/// What is open at the container's own address to which the packet goes.
fn direct(state: &State, journey: &Journey) -> Vec<(PortKey, Port)> {
    let here = |(key, _): &(&PortKey, &Port)| key.address == journey.destination;
    let entries = state.tables.ports.iter().filter(here);
    let ours = packets::OURS.map(Address::v4).contains(&journey.destination);
    entries.filter(|_| !ours).map(|(key, port)| (*key, *port)).collect()
}

/// Whether a packet passes every hook on its way; else the verdict that stops it.
fn passes(state: &State, journey: &Journey) -> Result<(), Verdict> {
    let mut mark = 0;
    for (hook, arrival) in &journey.way {
        if !state.hooks.contains(&HookPoint { ifindex: arrival.ifindex, hook: *hook }) {
            // No program, no mark: those of another namespace do not survive the veth.
            mark = if *hook == Hook::PortIngress { 0 } else { mark };
            continue;
        }
        let arrival = Arrival { mark, ..*arrival };
        let tables = &state.tables;
        tables.flows.replace(packets::flows());
        tables.inbound_flows.replace(packets::inbound_flows());
        tables.buckets.replace(packets::buckets());
        let verdict = decide(*hook, &arrival, &journey.frame[..], tables, &mut Workspace::zeroed());
        tables.flows.replace(BTreeMap::new());
        tables.inbound_flows.replace(BTreeMap::new());
        tables.buckets.replace(BTreeMap::new());
        tables.budgets.replace(BTreeMap::new());
        tables.random.set(0);
        if verdict.reason.is_drop() && tables.settings.observe == 0 {
            return Err(verdict);
        }
        let field = if verdict.reason.is_drop() { Mark::None } else { verdict.mark };
        mark = marked(mark, field, tables.settings.mark_bit);
    }
    Ok(())
}

#[test]
fn the_journeys_are_of_every_kind() {
    let full = Host::full().state(&State::default());
    let stops: BTreeSet<&str> = journeys()
        .iter()
        .filter_map(|journey| passes(&full, journey).err())
        .map(|verdict| verdict.reason.name())
        .collect();
    for reason in [
        "source-inside",
        "denied",
        "direct-access",
        "port-not-allowed",
        "source-not-allowed",
        "spoofed-mac",
        "spoofed-source",
        "isolation",
        "internal",
        "egress",
        "host-denied",
        "icc",
        "out-not-allowed",
        "over-limit",
    ] {
        assert!(stops.contains(reason), "no packet is dropped as {reason}: {stops:?}");
    }
    assert!(!stops.contains("malformed-header") && !stops.contains("martian"), "{stops:?}");
    let through = journeys().iter().filter(|journey| passes(&full, journey).is_ok()).count();
    assert!(through > 100, "{through} of {} pass", journeys().len());
}

#[test]
fn a_plan_to_the_same_state_is_empty_and_from_nothing_ends_attached() {
    let mut desired = State::default();
    desired.tables.settings.abi = 1;
    desired.tables.networks.insert(4, Network { icc: 1, terms: Terms::OPEN, ..Network::zeroed() });
    desired.hooks.insert(HookPoint { ifindex: 4, hook: Hook::BridgeIngress });
    assert!(plan(&desired, &desired).is_empty());
    let steps = plan(&State::default(), &desired);
    assert!(matches!(steps.first(), Some(Step::Settings(settings)) if settings.abi == 1));
    assert!(matches!(steps.last(), Some(Step::Attach(_))));
    let mut state = State::default();
    for step in &steps {
        apply(&mut state, step);
    }
    assert_eq!(state, desired);
}

/// Between the two a port would vouch for what goes to the host, and nobody would take the mark off again.
#[test]
fn a_bridge_has_its_hook_before_its_ports_and_what_records_has_it_first() {
    let full = Host::full().state(&State::default());
    let steps = plan(&State::default(), &full);
    let attached: Vec<HookPoint> = steps
        .iter()
        .filter_map(|step| if let Step::Attach(point) = step { Some(*point) } else { None })
        .collect();
    let at = |hook, ifindex| attached.iter().position(|point| *point == HookPoint { ifindex, hook });
    let ports: Vec<_> =
        hosts::PORTS.iter().filter(|(port, _)| at(Hook::PortIngress, *port).is_some()).collect();
    assert!(!ports.is_empty(), "{attached:?}");
    for (port, bridge) in ports {
        assert!(at(Hook::BridgeIngress, *bridge).is_some());
        assert!(at(Hook::BridgeIngress, *bridge) < at(Hook::PortIngress, *port), "{port}: {attached:?}");
    }
    let records = |point: &HookPoint| matches!(point.hook, Hook::UplinkEgress | Hook::BridgeEgress);
    assert!(attached.is_sorted_by_key(|point| !records(point)), "{attached:?}");
}

/// Carries a step out, as the datapath does on maps and devices.
fn apply(state: &mut State, step: &Step) {
    fn set<K: Ord + Clone, V: Clone>(table: &mut BTreeMap<K, V>, key: &K, value: Option<&V>) {
        match value {
            Some(value) => table.insert(key.clone(), value.clone()),
            None => table.remove(key),
        };
    }
    let tables = &mut state.tables;
    match step {
        Step::Settings(settings) => tables.settings = *settings,
        Step::Interface(key, value) => set(&mut tables.interfaces, key, value.as_ref()),
        Step::Subnet(key, value) => set(&mut tables.subnets, key, value.as_ref()),
        Step::Network(key, value) => set(&mut tables.networks, key, value.as_ref()),
        Step::LocalAddress(key, value) => set(&mut tables.local_addresses, key, value.as_ref()),
        Step::Port(key, value) => set(&mut tables.ports, key, value.as_ref()),
        Step::Denied(key, value) => set(&mut tables.denied, key, value.as_ref()),
        Step::Source(key, value) => set(&mut tables.sources, key, value.as_ref()),
        Step::Endpoint(key, value) => set(&mut tables.endpoints, key, value.as_ref()),
        Step::Station(key, value) => set(&mut tables.stations, key, value.as_ref()),
        Step::Reach(key, Some(())) => _ = tables.reach.insert(*key),
        Step::Reach(key, None) => _ = tables.reach.remove(key),
        Step::Link(key, Some(())) => _ = tables.links.insert(*key),
        Step::Link(key, None) => _ = tables.links.remove(key),
        Step::Outbound(key, value) => set(&mut tables.outbound, key, value.as_ref()),
        Step::Limit(key, value) => set(&mut tables.limits, key, value.as_ref()),
        Step::Name(key, value) => set(&mut state.names, key, value.as_ref()),
        Step::Attach(point) => assert!(state.hooks.insert(*point)),
        Step::Detach(point) => assert!(state.hooks.remove(point)),
    }
}
