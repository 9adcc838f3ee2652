//! XDP on an uplink: what [`outside::coming_in`] would surely drop, dropped before the kernel makes a packet of it.
//!
//! Every drop here has the reason and the rule that it would have there, for it is the same code that gives them. All
//! else goes on to that hook: what only the kernel knows (routes, for whom a frame is that is not for the uplink's own
//! MAC address, a VLAN tag that the device has taken out), and what would cost a packet that is accepted in the end
//! more than a look at a few tables (TCP that opens nothing).

use super::outside::{
    Destination, Flows, ip_frame, is_for_one, is_martian, is_own_source, known, to_container, to_us,
};
use super::{Workspace, is_for, lan};
use crate::address::Mac;
use crate::tables::{Interface, Tables, link_layer};
use crate::verdict::{Action, Hook, Reason, Verdict};
use crate::wire::{Arrival, Audience, Bytes, proto};

/// Left to the hook behind; never counted.
const LATER: Verdict = Verdict::pass(Reason::NotOurs);

/// Decides a frame that arrives on an uplink, before the kernel has looked at it: drop, or leave it to
/// `uplink_ingress`. Of `arrival`, the audience is not known yet.
#[inline(always)]
pub(super) fn coming_in<T: Tables, B: Bytes + ?Sized>(
    arrival: &Arrival,
    bytes: &B,
    tables: &T,
    work: &mut Workspace,
) -> Verdict {
    // A bond shows its members here, which have no role.
    let interface = match tables.interface(arrival.ifindex) {
        Some(interface) if is_for(Hook::UplinkXdp, interface.role) => interface,
        _ => return LATER,
    };
    if interface.link_layer != link_layer::ETHERNET {
        return LATER;
    }
    let Ok(frame) = ip_frame(&interface, arrival, bytes, work) else {
        return LATER;
    };
    let arrival = Arrival { audience: audience(frame.destination, &interface), ..*arrival };
    let for_station = lan::is_for_station(&interface, &arrival, bytes, tables);
    if arrival.audience == Audience::Other && interface.bridge_port == 0 && !for_station {
        return LATER;
    }
    if let Err(reason) = work.parse(&frame, bytes) {
        return Verdict::drop(reason);
    }
    let packet = &work.packet;
    if is_martian(packet) {
        return Verdict::drop(Reason::Martian);
    }
    if tables.subnet(&packet.source).is_some() {
        return Verdict::drop(Reason::SourceInside);
    }
    let by_neighbour = for_station && lan::is_from_neighbour(interface.l3_device, bytes, packet, tables);
    let destination =
        if for_station { Some(Destination::Station) } else { known(tables, &interface, &packet.destination) };
    // Before denials, as there: a reason must not depend on who drops.
    if destination != Some(Destination::Container)
        && !by_neighbour
        && is_own_source(tables, &interface, &packet.source)
    {
        match destination {
            Some(Destination::Station) => return Verdict::drop(Reason::SourceOurs),
            Some(_) if is_for_one(&arrival, tables, &interface, &packet.destination) => {
                return Verdict::drop(Reason::SourceOurs);
            }
            Some(_) => {}
            None => return LATER,
        }
    }
    if let Some(deny) = tables.denied(&packet.source) {
        return Verdict::drop(Reason::Denied).by(deny.rule);
    }
    if by_neighbour || (packet.protocol == proto::TCP && !packet.opens()) {
        return LATER;
    }
    let verdict = match destination {
        Some(Destination::Ours | Destination::Station) => {
            to_us(bytes, tables, work, Flows::Kept, destination == Some(Destination::Station))
        }
        Some(Destination::Container) => to_container(bytes, tables, work, interface.l3_device, Flows::Kept),
        Some(Destination::Elsewhere) | None => LATER,
    };
    if verdict.action == Action::Drop { verdict } else { LATER }
}

/// For whom the kernel will think the frame is (`eth_type_trans`).
#[inline(always)]
fn audience(destination: Mac, interface: &Interface) -> Audience {
    if destination == interface.mac {
        Audience::Host
    } else if destination.bytes == [0xff; 6] {
        Audience::Broadcast
    } else if destination.is_group() {
        Audience::Multicast
    } else {
        Audience::Other
    }
}
