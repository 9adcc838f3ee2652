//! What a scrape of the metrics takes where there are many networks, containers and ports.

use std::time::Duration;

use anyhow::Result;

use super::crowd::{self, Crowd, Size};
use super::sheet::Sheet;
use super::told;
use crate::setup::{self, Part};
use crate::soak::{ADDRESS, Scrapes, scrape};
use crate::workspace;

/// Measures; `quick` does so with the daemon that is built for tests.
pub(super) fn run(quick: bool) -> Result<()> {
    setup::ensure(&[Part::Build, Part::Lab])?;
    let fw = if quick { workspace::build_fw()? } else { workspace::build_release_fw()? };
    let mut sheet = Sheet::begin("metrics", quick, if quick { "debug" } else { "release" })?;
    for size in [
        Size { networks: 1, containers: 1, ports: 1, alive: true },
        Size { networks: 500, containers: 1000, ports: 1000, alive: true },
    ] {
        let Size { networks, containers, ports, .. } = size;
        Sheet::about(&format!("{networks} networks, {containers} containers, {ports} published ports"));
        let crowd = Crowd::gather(size, told::LOG)?;
        let last = usize::from(crowd::FIRST_PORT) + ports - 1;
        let policy = format!(
            "[[allow]]\nname = \"published\"\nproto = \"tcp\"\nports = [\"{}-{last}\"]\n",
            crowd::FIRST_PORT
        );
        let _daemon =
            crowd.lab().fw_begin(&fw, &policy, &["--docker", crowd::SOCKET, "--metrics", ADDRESS])?;
        told::ready(crowd.lab(), Duration::from_mins(10))?;
        let Scrapes { series, read, cpu, .. } = scrape(crowd.lab())?;
        sheet.add("series", "", &[f64::from(u32::try_from(series)?)], None)?;
        sheet.add("a scrape: reading maps and what the daemon tells", "ms", &read, None)?;
        sheet.add("a scrape: CPU time", "ms", &cpu, None)?;
    }
    sheet.end()
}
