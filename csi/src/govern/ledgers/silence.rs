//! Whether the API server answers at all. One request without an answer may be about its object; several of different objects, while
//! nothing else is answered, are not. Pure.

use std::collections::BTreeSet;

/// How many objects stay without an answer before the others are not waited for.
const SEVERAL: usize = 3;

/// What was answered, and what not.
#[derive(Debug, Default)]
pub(super) struct Silence {
    answers: u64,
    /// Objects that got no answer since the last that came.
    unanswered: BTreeSet<String>,
}

impl Silence {
    /// Whether nothing more is to be asked.
    pub(super) fn is_total(&self) -> bool {
        self.unanswered.len() >= SEVERAL
    }

    /// How many answers have come so far.
    pub(super) fn answers(&self) -> u64 {
        self.answers
    }

    /// An answer came, whatever it says.
    pub(super) fn ends(&mut self) {
        self.answers = self.answers.wrapping_add(1);
        self.unanswered.clear();
    }

    /// None came about an object, which was asked for when so many others had come.
    pub(super) fn goes_on(&mut self, object: &str, answers: u64) {
        if self.answers == answers {
            self.unanswered.insert(object.to_owned());
        }
    }

    /// They may be asked again: the next that is not answered is enough.
    pub(super) fn try_again(&mut self) {
        while self.is_total() {
            self.unanswered.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(objects: &[&str]) -> Silence {
        let mut silence = Silence::default();
        for object in objects {
            silence.goes_on(object, 0);
        }
        silence
    }

    #[test]
    fn one_object_is_not_everybody_however_often_it_is_asked() {
        assert!(!silent(&["a", "a", "a", "a"]).is_total());
        assert!(!silent(&["a", "b"]).is_total());
        assert!(silent(&["a", "b", "c"]).is_total());
    }

    #[test]
    fn who_was_silent_while_others_were_answered_is_alone() {
        let mut silence = Silence::default();
        silence.ends();
        for object in ["a", "b", "c", "d"] {
            silence.goes_on(object, 0);
        }
        assert!(!silence.is_total());
        assert_eq!(silence.answers(), 1);
    }

    #[test]
    fn an_outage_is_tried_one_by_one_until_an_answer_ends_it() {
        let mut silence = silent(&["a", "b", "c", "d"]);
        silence.try_again();
        assert!(!silence.is_total());
        silence.goes_on("e", 0);
        assert!(silence.is_total());
        silence.ends();
        assert!(!silence.is_total());
        silence.goes_on("a", 1);
        silence.goes_on("b", 1);
        assert!(!silence.is_total());
    }
}
