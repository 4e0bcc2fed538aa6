//! Increasing the part power: twice as many partitions without moving data between devices. Objects are linked
//! to their future places first (`prepare`), then the ring changes (`increase`), then old links go (`finish`).

use super::{DONE, Outcome, Run};

const AFTER_WRITE: &str = "The change will take effect after the next write_ring.";

impl Run<'_, '_> {
    pub(super) fn prepare_increase(&mut self) -> Outcome {
        let name = self.builder_file.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if !name.contains("object") {
            return Err("Partition power increase is only supported for object rings.".into());
        }
        if !self.builder.prepare_increase_part_power() {
            return Err("Ring is already prepared for partition power increase.".into());
        }
        self.save()?;
        self.announce_next("Distribute the ring and link existing data (relink) before increase_partition_power.")
    }

    fn announce_next(&mut self, advice: &str) -> Outcome {
        let next = self.builder.next_part_power.unwrap_or(self.builder.part_power);
        self.terminal.say(format!("The next partition power is now {next}."));
        self.terminal.say(AFTER_WRITE);
        self.terminal.say(advice);
        Ok(DONE)
    }

    pub(super) fn increase(&mut self) -> Outcome {
        if !self.builder.increase_part_power() {
            return Err("Ring partition power cannot be increased. Either the ring\nwas not prepared yet, or this operation \
                        has already run."
                .into());
        }
        self.terminal.say(format!("The partition power is now {}.", self.builder.part_power));
        self.terminal.say(AFTER_WRITE);
        self.builder.update_last_moves(self.terminal.now);
        self.save()
    }

    pub(super) fn cancel_increase(&mut self) -> Outcome {
        if !self.builder.cancel_increase_part_power() {
            return Err("Ring partition power increase cannot be canceled.".into());
        }
        self.save()?;
        self.announce_next("Distribute the ring and remove the links (cleanup), then finish_increase_partition_power.")
    }

    pub(super) fn finish_increase(&mut self) -> Outcome {
        if !self.builder.finish_increase_part_power() {
            return Err("Ring partition power increase cannot be finished.".into());
        }
        self.terminal.say(AFTER_WRITE);
        self.save()
    }
}
