//! Why somebody may use an agent, or not: what each rule says to it. Pure: time is an argument.

use std::sync::Arc;

use cluster_state::AgentId;
use jiff::Timestamp;

use super::{Directory, RuleVerdict, caller::Caller, file::Rule, words::RuleWords};
use crate::{Access, AgentInfo, Identity, IdentityKind};

/// The answer to "why can this user?".
#[derive(Debug)]
pub struct AccessExplanation {
    /// Who wants to use the agent.
    pub caller: Caller,
    /// The agent.
    pub agent: Arc<AgentInfo>,
    /// What the rule gives that decides; `None` if there is none.
    pub access: Option<Access>,
    /// What each rule says, in their order.
    pub verdicts: Vec<ToldVerdict>,
}

/// What one rule says.
#[derive(Debug)]
pub struct ToldVerdict {
    /// The rule.
    pub rule: RuleWords,
    /// What it says, as in "is for other agents".
    pub verdict: &'static str,
    /// Whether it is the one that decides.
    pub decides: bool,
}

impl Directory {
    /// Somebody of this name whose token says these groups; those of the file come on top.
    #[must_use]
    pub fn caller_named(&self, kind: IdentityKind, name: &str, groups: Vec<String>) -> Caller {
        let name = name.to_owned();
        self.with_own_groups(Caller {
            identity: Identity { kind, name },
            groups,
            access_type: "",
            issuer: None,
        })
    }

    /// Why a caller may use an agent, or not; `None` where there is no such agent.
    #[must_use]
    pub fn explain(
        &self,
        caller: Caller,
        agent: AgentId,
        now: Timestamp,
    ) -> Option<AccessExplanation> {
        let info = self.agent(agent)?;
        let verdicts = self.verdicts(&caller, agent, now)?;
        let decides = verdicts.iter().position(|it| *it == RuleVerdict::Matches);
        let each = self.rules().zip(verdicts).enumerate();
        let verdicts = each.map(|(at, (rule, verdict))| ToldVerdict {
            rule: rule.words(now),
            verdict: words(verdict, decides.is_some_and(|it| it < at)),
            decides: decides == Some(at),
        });
        Some(AccessExplanation {
            verdicts: verdicts.collect(),
            access: self.permit(&caller, agent, now).ok(),
            agent: info,
            caller,
        })
    }
}

impl AccessExplanation {
    /// The number of the rule that decides, from 1.
    #[must_use]
    pub fn rule(&self) -> Option<usize> {
        let at = self.verdicts.iter().position(|it| it.decides);
        at.map(|at| at + 1)
    }

    /// The answer in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let (who, agent) = (&self.caller.identity, &self.agent.name);
        let groups = match self.caller.groups.is_empty() {
            true => "no group".to_owned(),
            false => format!("the groups {}", self.caller.groups.join(", ")),
        };
        let decides = self.rule().zip(self.verdicts.iter().find(|it| it.decides));
        match decides {
            None => format!(
                "Refused: {who}, in {groups}, may not use agent {agent}: no rule is for both. Add one with `kas access grant`."
            ),
            Some((number, told)) => format!(
                "Allowed: {who}, in {groups}, may use agent {agent}, by rule {}: {}.",
                Rule::named(number),
                told.rule.sentence()
            ),
        }
    }
}

fn words(verdict: RuleVerdict, decided: bool) -> &'static str {
    match verdict {
        RuleVerdict::Matches if decided => "would match, but another decided",
        RuleVerdict::Matches => "decides",
        RuleVerdict::Expired => "has expired",
        RuleVerdict::OtherAgents => "is for other agents",
        RuleVerdict::OtherCallers => "is for others",
        RuleVerdict::OtherKind => "is for the other kind of caller",
    }
}
