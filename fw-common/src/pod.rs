//! Markers that let aya move our plain data between user space and maps; each is bounded by `bytemuck::Pod`.

use crate::address::{Address, Mac};
use crate::fast::{FastKey, FastPath, Generation};
use crate::flow::{Flow, FlowKey};
use crate::tables::{
    Bucket, BucketKey, BudgetPlace, Count, Daemon, Datagram, DatagramKey, DenyRule, Endpoint, EventBudget,
    EventRate, Interface, Limit, LinkKey, LocalAddress, LocalKey, Name, NameKey, Network, Observed,
    ObservedKey, OutKey, OutRule, Port, PortKey, Present, ReachKey, Settings, Station, Subnet, Zones,
};

const fn plain<T: bytemuck::Pod>() {}

macro_rules! plain_data {
    ($($type:ty),+ $(,)?) => {
        $(
            const _: () = plain::<$type>();
            // SAFETY: the line above proves that the type is `bytemuck::Pod`: no padding, every bit pattern valid.
            unsafe impl aya::Pod for $type {}
        )+
    };
}

plain_data!(
    Address,
    Mac,
    Settings,
    Interface,
    Subnet,
    Network,
    LocalKey,
    LocalAddress,
    PortKey,
    Port,
    DenyRule,
    Zones,
    Endpoint,
    Station,
    FlowKey,
    Flow,
    FastKey,
    FastPath,
    Generation,
    Count,
    Daemon,
    NameKey,
    Name,
    ReachKey,
    Present,
    LinkKey,
    OutKey,
    OutRule,
    Limit,
    BucketKey,
    Bucket,
    DatagramKey,
    Datagram,
    BudgetPlace,
    ObservedKey,
    Observed,
    EventRate,
    EventBudget,
);
