//! Docker's nftables backend: nothing is handed over to it, but its daemon may lack an option.

use crate::handover::{Marks, Nft};

/// What to give dockerd, if it filters with nftables and drops what fw has let through. Blocks while nft runs.
pub(super) fn advice(bit: u8, reach: bool) -> Option<String> {
    let marks = Marks::new(bit).ok()?;
    match Nft::find()?.docker(marks) {
        Ok(native) => native?.advice(marks, reach),
        Err(error) => {
            tracing::debug!(%error, "cannot tell whether Docker filters with nftables");
            None
        }
    }
}
