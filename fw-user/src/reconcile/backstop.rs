//! The static nftables tables, kept as they should be.

use std::collections::BTreeSet;

use super::{Reconciler, Wake, chain};
use crate::handover::{Backstop, HandoverError, Marks, Nft, Standing};

impl Reconciler {
    /// Keeps the backstop between neighbours as it should be.
    pub(super) async fn keep_apart(&mut self, wake: Wake, bridges: &BTreeSet<String>) {
        let wanted = self.marks().and_then(|marks| Backstop::apart(marks, bridges));
        let before = self.apart.take();
        let without = "on networks without icc two containers that are both new may reach each other until their ports \
                       are hooked";
        self.apart = self.keep_table(wake, wanted, before, "no backstop between neighbours", without).await;
    }

    /// Keeps the backstop before containers as it should be: `fallback = "closed"`.
    pub(super) async fn keep_closed(
        &mut self,
        wake: Wake,
        uplinks: &BTreeSet<String>,
        bridges: &BTreeSet<String>,
    ) {
        let wanted = self.marks().and_then(|marks| Backstop::closed(marks, uplinks, bridges));
        let before = self.closed.take();
        let without =
            "without fw's programs Docker's own rules decide, although the policy says fallback = \"closed\"";
        self.closed =
            self.keep_table(wake, wanted, before, "fallback = \"closed\" does not stand", without).await;
    }

    fn marks(&self) -> Result<Marks, HandoverError> {
        Marks::new(self.policy.marks.bit)
    }

    /// Brings one table to what is wanted; returns what stands. `failing` and `without` say what is missing if it
    /// fails, and if there is no nft.
    async fn keep_table(
        &mut self,
        wake: Wake,
        wanted: Result<Backstop, HandoverError>,
        before: Option<Standing>,
        failing: &str,
        without: &str,
    ) -> Option<Standing> {
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                self.say(&[format!("{failing}: {}", chain(&error))]);
                return None;
            }
        };
        if wake < Wake::Docker && before.as_ref().is_some_and(|standing| standing.is(&wanted)) {
            return before;
        }
        let Some(nft) = Nft::find() else {
            if !wanted.is_empty() {
                self.say(&[format!(
                    "cannot find `nft` in PATH or the sbin directories: {without}; install the package `nftables`"
                )]);
            }
            return None;
        };
        let applied = tokio::task::spawn_blocking(move || nft.apply(&wanted, before.as_ref()));
        let applied = self.beside(applied).await;
        match applied.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
            Ok(standing) => Some(standing),
            Err(error) => {
                self.say(&[format!("{failing}: {}", chain(&error))]);
                None
            }
        }
    }
}
