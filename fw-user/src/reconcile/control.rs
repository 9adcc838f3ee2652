//! What a person asks of the daemon: a policy read again, on trial if so wished, and what becomes of it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Reconciler, Wake, chain, check_uplinks};
use crate::control::{Answer, Asked, Control, Request};
use crate::desired::{Desired, DesiredError, Prepared};
use crate::difference::Counts;
use crate::kept::{self, Read, fingerprint};
use crate::metrics::Reload;
use crate::netlink;
use crate::plan::State;
use crate::typed_on::{Connection, would_cut};

/// A policy that was read, until it is seen to fit.
pub(super) struct Candidate {
    pub(super) read: Read,
    intent: Intent,
    typed_on: Option<Connection>,
    /// It is refused if it cuts the connection that it was asked for on.
    guarded: bool,
}

/// What is to become of a policy that fits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    /// It stays.
    Stay,
    /// It stays if it is confirmed within this time.
    Trial(Duration),
    /// It was in force before the one on trial.
    Return,
}

/// Why a policy is no candidate.
enum Unfit {
    /// The file is at fault.
    File(String),
    /// Another one waits to be confirmed.
    Waits(String),
}

/// What became of a candidate.
pub(super) enum Judged {
    /// It takes the place of the one before.
    Fits { changes: Counts, cuts: Option<Connection> },
    /// It cannot be put into tables.
    DoesNotFit(String),
    /// It would cut this connection.
    Cuts(Connection),
    /// The one before cannot be kept, so that there would be no way back from a trial.
    NoWayBack(String),
}

/// A policy on trial.
pub(super) struct Trial {
    before: Read,
    deadline: Instant,
    typed_on: Option<Connection>,
}

/// After this time a policy that could not be taken back is tried to be taken back again.
const AGAIN: Duration = Duration::from_secs(1);

impl Reconciler {
    /// Has the daemon answer what is asked over this socket.
    pub fn listen(&mut self, control: Control) {
        self.control = Some(control);
    }

    /// Sees to it that who looks for the socket finds it.
    pub(super) fn keep_listening(&mut self) {
        let Some(control) = &mut self.control else { return };
        match control.mend() {
            Ok(false) => {}
            Ok(true) => tracing::warn!("the control socket was gone; it is there again"),
            Err(error) => self.say(&[format!("`fw reload` does not reach this daemon: {}", chain(&error))]),
        }
    }

    /// Reads the policy file again, as SIGHUP asks; a bad one changes nothing, nor does one that was taken back: the
    /// signal may be a script's.
    pub(super) fn reload(&mut self) {
        match self.propose(Intent::Stay, None, false) {
            Ok(()) => {}
            Err(Unfit::File(message)) => {
                self.meters.reloaded(Reload::Refused);
                return tracing::error!("bad policy file; the policy in force stays in force: {message}");
            }
            Err(Unfit::Waits(message)) => {
                self.meters.reloaded(Reload::Refused);
                return tracing::error!("policy not reloaded: {message}");
            }
        }
        let taken_back = |candidate: &mut Candidate| {
            self.trial.is_none()
                && candidate.read != self.read
                && candidate.read.is_unconfirmed(&self.policy_file)
        };
        if self.candidate.take_if(taken_back).is_some() {
            self.meters.reloaded(Reload::Refused);
            tracing::error!(
                "nobody has confirmed the policy in {}; the policy in force stays in force. `fw reload` puts it in force, \
                 `fw reload --confirm 60s` on trial",
                self.policy_file.display()
            );
        }
    }

    /// Reads the policy file for the next pass to judge.
    fn propose(&mut self, intent: Intent, typed_on: Option<Connection>, guarded: bool) -> Result<(), Unfit> {
        let read = self.read_policy().map_err(|error| Unfit::File(chain(&*error)))?;
        if let Some(trial) =
            self.trial.as_ref().filter(|trial| intent == Intent::Stay && trial.before != read)
        {
            let left = trial.deadline.saturating_duration_since(Instant::now()).as_secs() + 1;
            return Err(Unfit::Waits(format!(
                "a policy waits for `fw confirm`, {left} s more; confirm it, or put another one on trial with \
                 `fw reload --confirm`"
            )));
        }
        tracing::info!(file = %self.policy_file.display(), "policy read again");
        self.candidate = Some(Candidate { read, intent, typed_on, guarded });
        Ok(())
    }

    fn read_policy(&self) -> Result<Read, Box<dyn std::error::Error>> {
        let mut read = Read::from(&self.policy_file)?;
        check_uplinks(&read.policy, Some(&self.policy), &netlink::snapshot()?.links)?;
        if read.policy.tables.of_maps() != self.policy.tables.of_maps() {
            tracing::warn!(
                "tables of another size take effect with the next start of `fw run`; the rest does now"
            );
            read.policy.tables.keep_sizes(&self.policy.tables);
        }
        Ok(read)
    }

    /// Gives the candidate the place of the policy in force, if it fits; what becomes of it is in `judged`.
    pub(super) fn judge(
        &mut self,
        candidate: Candidate,
        fitting: Result<(Desired, Prepared), DesiredError>,
        current: &State,
    ) -> Option<Desired> {
        let (wanted, prepared) = match fitting {
            Ok(fitting) => fitting,
            Err(error) => return self.refuse(Judged::DoesNotFit(chain(&error))),
        };
        let cuts = candidate.typed_on.filter(|connection| would_cut(&wanted.state.tables, connection));
        if let Some(connection) = cuts.filter(|_| candidate.guarded) {
            return self.refuse(Judged::Cuts(connection));
        }
        if let Intent::Trial(_) = candidate.intent {
            let before = self.trial.as_ref().map_or(&self.read, |trial| &trial.before);
            if let Err(error) = before.keep(&self.policy_file, &candidate.read) {
                let path = kept::beside(&self.policy_file);
                return self.refuse(Judged::NoWayBack(format!("cannot write {}: {error}", path.display())));
            }
        }
        let before = std::mem::replace(&mut self.read, candidate.read);
        self.policy = self.read.policy.clone();
        let trial = self.trial.take();
        match candidate.intent {
            Intent::Stay => {
                if let Err(error) = kept::let_go(&self.policy_file) {
                    let path = kept::beside(&self.policy_file);
                    tracing::warn!(%error, "cannot remove {}; remove it", path.display());
                }
            }
            Intent::Trial(time) => {
                let before = trial.map_or(before, |trial| trial.before);
                let deadline = Instant::now() + time;
                self.trial = Some(Trial { before, deadline, typed_on: candidate.typed_on });
                tracing::info!(
                    ?time,
                    "the policy is on trial; without `fw confirm` the one before comes back"
                );
            }
            Intent::Return => {
                tracing::warn!(
                    file = %self.policy_file.display(),
                    "nobody has confirmed the policy: the one before is in force again; the file still holds the other"
                );
            }
        }
        let returned = candidate.intent == Intent::Return;
        self.meters.reloaded(if returned { Reload::TakenBack } else { Reload::Applied });
        self.meters.set_policy(fingerprint(&self.read.text));
        self.tell_deadline();
        self.prepared = Some(prepared);
        self.said.clear();
        self.datapath.forget_refusals();
        self.judged = Some(Judged::Fits { changes: Counts::between(current, &wanted.state), cuts });
        Some(wanted)
    }

    fn refuse(&mut self, judged: Judged) -> Option<Desired> {
        self.meters.reloaded(Reload::Refused);
        match &judged {
            Judged::DoesNotFit(why) | Judged::NoWayBack(why) => {
                tracing::error!(error = why, "bad policy file; the policy in force stays in force");
            }
            Judged::Cuts(connection) => {
                tracing::warn!(%connection, "policy refused: it cuts the connection on which it was asked for");
            }
            Judged::Fits { .. } => {}
        }
        self.judged = Some(judged);
        None
    }

    fn tell_deadline(&self) {
        self.meters.set_on_trial(self.trial.is_some());
        if let Some(control) = &self.control {
            control.set_deadline(self.trial.as_ref().map(|trial| trial.deadline));
        }
    }

    /// When the policy on trial is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.deadline)
    }

    /// Has the next pass put back what was in force before the trial; asked again if that pass fails.
    pub(super) fn take_back(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        trial.deadline = Instant::now() + AGAIN;
        let read = trial.before.clone();
        self.candidate = Some(Candidate { read, intent: Intent::Return, typed_on: None, guarded: false });
    }

    /// Before the daemon ends: nobody would take back a policy that is on trial.
    pub(super) async fn end_trial(&mut self) {
        self.take_back();
        if self.trial.is_some()
            && let Err(error) = self.pass(Wake::Everything).await
        {
            self.failed(&error);
        }
    }

    /// Does what is asked, and answers.
    pub(super) async fn answer(&mut self, asked: Asked) {
        let answer = match asked.request {
            Request::Reload { confirm_within, typed_on, force } => {
                self.reload_on_request(confirm_within.map(Duration::from_secs), typed_on, force).await
            }
            Request::Confirm { typed_on, force } => self.confirm(typed_on, force),
            Request::Waiting => Answer::Waiting { seconds: self.seconds_left() },
            request @ (Request::Ban { .. } | Request::Unban { .. } | Request::Bans) => {
                self.answer_ban(request)
            }
        };
        // Whoever has gone without waiting wanted it all the same.
        drop(asked.answer.send(answer));
    }

    fn seconds_left(&self) -> Option<u64> {
        let deadline = self.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()).as_secs() + 1)
    }

    async fn reload_on_request(
        &mut self,
        trial: Option<Duration>,
        typed_on: Option<Connection>,
        force: bool,
    ) -> Answer {
        let intent = trial.map_or(Intent::Stay, Intent::Trial);
        // On trial it comes back by itself.
        let guarded = !force && trial.is_none();
        if let Err(unfit) = self.propose(intent, typed_on, guarded) {
            self.meters.reloaded(Reload::Refused);
            let (Unfit::File(message) | Unfit::Waits(message)) = &unfit;
            tracing::error!("policy not reloaded: {message}");
            return match unfit {
                Unfit::File(message) => Answer::Refused { message },
                Unfit::Waits(message) => Answer::Declined { message },
            };
        }
        self.judged = None;
        let passed = self.pass(Wake::Everything).await;
        if let Err(error) = &passed {
            self.failed(error);
        }
        // What no pass has judged is not put in force behind the asker's back.
        self.candidate = None;
        match (self.judged.take(), passed) {
            (Some(Judged::DoesNotFit(message)), _) => Answer::Refused { message },
            (Some(Judged::NoWayBack(message)), _) => {
                let message = format!("the policy in force cannot be kept for the way back: {message}");
                Answer::Declined { message }
            }
            (Some(Judged::Cuts(connection)), _) => Answer::Declined {
                message: format!(
                    "this policy would not let you in again: the connection on which you type, {connection}, could \
                     not be opened. Nothing was changed. Add a rule for it; or try it with `--confirm 60s`; or say \
                     `--force`"
                ),
            },
            (Some(Judged::Fits { changes, cuts }), Ok(_)) => {
                Answer::Applied { changes, confirm_within: self.seconds_left(), cuts }
            }
            (Some(Judged::Fits { .. }), Err(error)) => Answer::Failed {
                message: format!(
                    "the policy is not in force as a whole, the daemon tries again with its next pass: {}",
                    chain(&error)
                ),
            },
            (None, Err(error)) => {
                Answer::Failed { message: format!("nothing was changed: {}", chain(&error)) }
            }
            (None, Ok(_)) => {
                Answer::Failed { message: "nothing was changed: no pass looked at it".to_owned() }
            }
        }
    }

    fn confirm(&mut self, typed_on: Option<Connection>, force: bool) -> Answer {
        let Some(trial) = &self.trial else {
            let message =
                "no policy waits to be confirmed; `fw reload --confirm 60s` puts one on trial".to_owned();
            return Answer::Declined { message };
        };
        if typed_on.is_some() && typed_on == trial.typed_on && !force {
            let message = "this is the connection on which the policy was reloaded, and proves nothing: log in once \
                           more and confirm it there; or say `--force`";
            return Answer::Declined { message: message.to_owned() };
        }
        if let Err(error) = kept::let_go(&self.policy_file) {
            let path = kept::beside(&self.policy_file);
            return Answer::Failed { message: format!("cannot remove {}: {error}", path.display()) };
        }
        self.trial = None;
        self.tell_deadline();
        tracing::info!("the policy is confirmed");
        Answer::Confirmed
    }
}

/// Waits for the next request: for ever if there is no socket.
pub(super) async fn asked(control: &mut Option<Control>) -> Asked {
    match control {
        Some(control) => control.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for the next request that waits for nothing.
pub(super) async fn urgent(control: &mut Option<Control>) -> Asked {
    match control {
        Some(control) => control.next_urgent().await,
        None => std::future::pending().await,
    }
}

/// Waits until then; for ever if there is nothing to wait for.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
