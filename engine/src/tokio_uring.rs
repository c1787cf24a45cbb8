//! Engine; see the module of the same name.

use crate::{Config, Counters, EngineError, Handler, Inbox};

pub(crate) fn run<H: Handler>(_: &Config, _: Inbox, _: &mut H) -> Result<Counters, EngineError> {
    Err(EngineError::Missing)
}

pub(crate) fn probe() -> Result<(), EngineError> {
    Err(EngineError::Missing)
}
