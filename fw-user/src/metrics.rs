//! Metrics for Prometheus, off unless `fw run --metrics` names where: what the kernel counts is read from the maps at the
//! moment of a scrape, what only the daemon knows it tells at the end of each pass.

mod families;
mod listen;
mod page;
mod read;
mod serve;
mod told;

pub use families::ALL;
pub use listen::{BadAddress, Endpoint, ListenError, Listening};
pub use page::{Family, Format, Kind};
pub use serve::{Serving, serve};
pub use told::{Counted, Durations, Host, Meters, Reload, Told, Xdp};
