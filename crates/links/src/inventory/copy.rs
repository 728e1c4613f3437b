//! The first copy: pages of state.

use std::time::Duration;

use lockstep_contract::services::link_pull::{AfterInput, Page};
use lockstep_model::ResourceId;

use super::Sync;
use super::batch::{Batch, Bounds, Range};
use super::frame::Frame;
use super::peer::{call, next_place};
use super::place::{Place, typed};
use super::set::Set;
use crate::{Stage, SyncError};

/// A page that was read.
struct Read {
    batch: Batch,
    next: Option<ResourceId>,
}

impl Sync<'_> {
    /// Copies the pages behind `after`. The next one is asked for and read while one is written.
    pub(super) async fn copy(&mut self, token: String, after: Option<ResourceId>) -> Result<Place, SyncError> {
        self.run.stage(Stage::ChangeEnumeration);
        let mut read = self.page(after).await?;
        self.run.stage(Stage::ChangeApplication);
        loop {
            let Read { batch, next } = read;
            let place = match &next {
                Some(next) => Place::Copying { token: token.clone(), after: Some(next.clone()) },
                None => Place::Following { token: token.clone() },
            };
            let count = batch.len();
            self.count(count)?;
            let cursor = self.cursor.clone();
            let committing = batch.commit(self.run, cursor.as_deref(), &place);
            let Some(next) = next else {
                committing.await?;
                self.run.advance(count);
                self.moved(&place);
                return Ok(place);
            };
            let (committed, following) = tokio::join!(committing, self.page(Some(next)));
            committed?;
            self.run.advance(count);
            self.moved(&place);
            read = following?;
        }
    }

    async fn page(&self, after: Option<ResourceId>) -> Result<Read, SyncError> {
        let set = Set::of(self.run);
        let input =
            AfterInput { after: after.as_ref().map(typed), set: Some(self.run.provider().to_owned()), link: None };
        let page = call(&self.run.client, Page, input, Duration::ZERO).await?;
        let next = page.next.map(|next| next_place(set, next, after.as_ref())).transpose()?;
        self.provider.demand_models(self.run, &page.models).await?;
        let range = Range { after, last: next.clone() };
        let batch = Batch::read(self.run, Frame::open(&page.frame)?, Bounds::Whole(range)).await?;
        Ok(Read { batch, next })
    }
}
