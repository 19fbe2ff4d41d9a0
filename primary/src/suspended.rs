//! A pair that an operator has suspended: nothing is sent, and the other side is asked now and then whether it is the copy still
//! (invariant 8). It hears by that, also after its own restart, that nobody calls it on purpose.
//!
//! ```text
//! Suspended ─▶ Agreed: it is the copy still
//!        └──▶ Refused: by who has taken over, and this side is fenced; or anything else, and it is asked again
//! ```

use std::time::Duration;

use tidemark_common::api::types::PairState;
use tidemark_common::link::Connection;
use tidemark_common::wire::handshake::{HandshakeError, Versions};
use tidemark_common::wire::message::{Message, Refusal, Suspended};

use crate::ship::{Pair, ShipError};

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_secs(3);
/// A question that is not answered for so long is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Pair {
    /// Resolves when the other side has taken over, and this one was told so; never for a pair that is not suspended.
    pub(crate) async fn ask_while_suspended(&self) {
        while self.view.lock().state == PairState::Suspended {
            let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.ask_whether_replaced()).await;
            if let Ok(Err(error)) = asked
                && self.is_told_so(error)
            {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        std::future::pending::<()>().await;
    }

    async fn ask_whether_replaced(&self) -> Result<(), ShipError> {
        let (id, address) = self.links.reach(&self.peer).map_err(ShipError::Reach)?;
        let endpoint = self.links.endpoint();
        let connection = endpoint.dial(&address, id).await?;
        let said = self.say_suspended(&connection).await;
        connection.close("it only said that the pair is suspended");
        said
    }

    async fn say_suspended(&self, connection: &Connection) -> Result<(), ShipError> {
        let (control, mut answers) = connection.open_control().await?;
        let said = Suspended {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            group: self.keeper.id().0,
            generation: self.keeper.generation().0,
            message: self.suspended_here(),
        };
        control.send(&Message::Suspended(said)).await?;
        match answers.recv().await?.ok_or(ShipError::Ended)? {
            Message::Refused(refused) => Err(HandshakeError::Refused(refused).into()),
            _ => Ok(()),
        }
    }

    /// Whether an answer has made an end of the suspension. Nothing else that happens on the way is of interest to anybody.
    fn is_told_so(&self, error: ShipError) -> bool {
        tracing::debug!(group = %self.keeper.name(), peer = %self.peer, %error, "the other side of a suspended pair");
        if matches!(&error, ShipError::Handshake(HandshakeError::Refused(refused)) if refused.refusal == Refusal::Fenced)
        {
            self.disconnected(Some(error));
        }
        self.view.lock().state == PairState::Fenced
    }

    /// For the people on the other side.
    pub(crate) fn suspended_here(&self) -> String {
        let (here, pair) = (self.links.name(), self.in_commands());
        format!("the pair was suspended on '{here}': `tidemark pair resume {pair}` there goes on")
    }
}
