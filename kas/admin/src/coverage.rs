//! What an answer covers: the whole set, or what of it.

use cluster_state::ReplicaId;
use jiff::Timestamp;

use crate::v1::Coverage;

/// What an answer covers that is complete.
pub(crate) fn complete(replica: &ReplicaId) -> Coverage {
    Coverage {
        complete: true,
        problem: String::new(),
        as_of: Timestamp::now().to_string(),
        replica: replica.to_string(),
        scope: "set".to_owned(),
    }
}

/// What an answer covers of which as many replicas told nothing.
pub(crate) fn silent(me: &ReplicaId, unanswered: usize, all: usize) -> Coverage {
    let mut coverage = complete(me);
    if unanswered > 0 {
        coverage.without_some_replicas(&format!("{unanswered} of {all} replicas did not answer"));
    }
    coverage
}

impl Coverage {
    /// The same of an answer that is made of replicas' answers too, which cover this.
    pub(crate) fn with(&self, replicas: Option<Self>) -> Self {
        let mut coverage = self.clone();
        if let Some(replicas) = replicas.filter(|it| !it.complete) {
            coverage.without_some_replicas(&replicas.problem);
        }
        coverage
    }

    /// What the answering replica knows by itself, since the store does not tell.
    pub(crate) fn only_this_replica(&mut self, problem: String) {
        self.lacks("replica", problem);
    }

    /// Without what replicas would tell that did not answer.
    pub(crate) fn without_some_replicas(&mut self, problem: &str) {
        // What is known of this replica only is not more complete by what others tell.
        let scope = match &*self.scope {
            "set" => "partial".to_owned(),
            _ => std::mem::take(&mut self.scope),
        };
        let problem = match &*self.problem {
            "" => problem.to_owned(),
            known => format!("{known}; {problem}"),
        };
        self.lacks(&scope, problem);
    }

    /// Nothing could be read.
    pub(crate) fn nothing(&mut self, problem: String) {
        self.lacks("none", problem);
    }

    fn lacks(&mut self, scope: &str, problem: String) {
        self.complete = false;
        scope.clone_into(&mut self.scope);
        self.problem = problem;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_most_is_what_an_answer_is_about() {
        let me = ReplicaId::new("a");
        let all = complete(&me);
        let some = silent(&me, 1, 3);
        let mut alone = complete(&me);
        alone.only_this_replica("the store does not answer".to_owned());

        let scope = |coverage: Coverage| (coverage.scope, coverage.complete);
        assert_eq!(scope(all.with(Some(all.clone()))), ("set".to_owned(), true));
        let partial = ("partial".to_owned(), false);
        assert_eq!(scope(all.with(Some(some.clone()))), partial);
        let told = alone.with(Some(some));
        assert_eq!(
            told.problem,
            "the store does not answer; 1 of 3 replicas did not answer"
        );
        assert_eq!(scope(told), ("replica".to_owned(), false));
    }
}
