//! Following: what changed since a token, and waiting for it.

use std::time::Duration;

use lockstep_contract::services::link_pull::{Changes, ChangesInput, ChangesOut, WAIT_MAX_S};

use super::batch::{Batch, Bounds, commit_place};
use super::frame::Frame;
use super::peer::{call, is_expired, malformed};
use super::place::Place;
use super::{Sync, checked};
use crate::{Run, Stage, SyncError};

/// Most answers in a row that tell nothing and promise more.
pub(crate) const EMPTY_MAX: usize = 10_000;

impl Sync<'_> {
    /// Applies what changed since `token`, until nothing is left.
    pub(super) async fn follow(&mut self, token: String) -> Result<(), SyncError> {
        let mut token = token;
        let mut empty = 0;
        loop {
            let answer = ask(self.run, &token, None).await?;
            let frame = Frame::open(&answer.frame)?;
            let place = Place::Following { token: checked(answer.token)? };
            if !frame.is_empty() {
                self.provider.demand_models(self.run, &answer.models).await?;
                self.run.stage(Stage::ChangeEnumeration);
                let batch = Batch::read(self.run, frame, Bounds::Any).await?;
                let count = batch.len();
                self.count(count)?;
                self.run.total(self.work);
                self.run.stage(Stage::ChangeApplication);
                batch.commit(self.run, self.cursor.as_deref(), &place).await?;
                self.run.advance(count);
                self.moved(&place);
                empty = 0;
            }
            let Place::Following { token: next } = &place else { return Ok(()) };
            if !answer.more {
                return commit_place(self.run, self.cursor.as_deref(), &place).await;
            }
            empty += 1;
            if *next == token || empty > EMPTY_MAX {
                return Err(malformed("a promise of changes that do not come"));
            }
            token.clone_from(next);
        }
    }
}

/// Waits until something changed there behind the stored place; returns at once when there is none to wait behind.
///
/// Where the other site's log has come to without telling anything is kept while waiting only: the next sync stores it.
pub(crate) async fn changed(run: &Run) -> Result<(), SyncError> {
    let Some(Place::Following { mut token }) = run.cursor().as_deref().and_then(Place::read) else { return Ok(()) };
    loop {
        let answer = match ask(run, &token, Some(WAIT_MAX_S)).await {
            Ok(answer) => answer,
            // The sync compares.
            Err(error) if is_expired(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if answer.more || !Frame::open(&answer.frame)?.is_empty() {
            return Ok(());
        }
        token = checked(answer.token)?;
        // Answers that come at once and tell nothing: the other site is stopping, or pays no heed to the wait.
        tokio::time::sleep(PAUSE).await;
    }
}

/// Pause between two waits, so that a site that does not wait is not asked all the time.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn ask(run: &Run, token: &str, wait_s: Option<i64>) -> Result<ChangesOut, SyncError> {
    let wait = Duration::from_secs(u64::try_from(wait_s.unwrap_or(0)).unwrap_or(0));
    let input = ChangesInput {
        token: token.to_owned(),
        wait_s,
        set: Some(run.provider().to_owned()),
        link: Some(run.link.to_string()),
    };
    call(&run.client, Changes, input, wait).await
}
