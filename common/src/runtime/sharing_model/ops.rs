//! What happens to the instances of [`World`](super::World), and to their topic.

use super::{Before, TICK, Work, World};

#[derive(Debug, Clone)]
pub(super) enum Op {
    Join,
    /// One of an older version.
    JoinOld,
    /// The offsets topic is deleted and created again.
    Recreate,
    Leave(usize),
    Kill(usize),
    Pause(usize),
    Resume(usize),
    /// It makes no progress, and says so; or does again.
    Block(usize, bool),
    /// It claims nothing, and does not say so; or does again.
    Break(usize, bool),
    Compact(u8),
    Wait(u8),
}

impl World {
    pub(super) fn take(&mut self, op: &Op) {
        let exists = |who: &usize| self.instances.get(*who).is_some();
        match op {
            Op::Join if self.instances.len() < 5 => self.join(),
            Op::JoinOld if self.instances.len() < 5 => {
                self.join();
                self.instances.last_mut().unwrap().is_old = true;
            }
            Op::Recreate => self.recreate(),
            Op::Leave(who) if exists(who) && !self.instances[*who].is_paused => self.leave(*who),
            Op::Kill(who) if exists(who) => {
                self.instances.remove(*who);
            }
            Op::Pause(who) if exists(who) => self.instances[*who].is_paused = true,
            Op::Resume(who) if exists(who) => self.instances[*who].is_paused = false,
            Op::Block(who, is) if exists(who) => self.instances[*who].is_blocked = *is,
            Op::Break(who, is) if exists(who) => self.instances[*who].is_broken = *is,
            Op::Compact(share) => self.compact(*share),
            Op::Wait(ticks) => self.run(TICK * u32::from(*ticks)),
            _ => {}
        }
    }

    /// All that was written is gone, claims and members too; who owned knows that it did.
    fn recreate(&mut self) {
        self.log.clear();
        self.compacted.clear();
        for instance in &mut self.instances {
            (instance.read, instance.written) = (0, None);
            instance.view.forget(0);
            for work in &mut instance.work {
                let knew_an_owner = work.sight.is_some_and(|((token, ..), _)| token.is_some());
                let before = match work.token {
                    Some(_) => Before::Owner,
                    None if knew_an_owner => Before::Standby,
                    None => Before::Nothing,
                };
                let own = std::mem::take(&mut work.own);
                *work = Work { own, before: Some(before), ..Work::default() };
            }
        }
    }
}
