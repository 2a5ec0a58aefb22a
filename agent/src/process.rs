//! Processes that the agent starts: the supervised command, and programs that it runs for their output.

pub mod children;
pub mod launch;
pub mod supervised;
