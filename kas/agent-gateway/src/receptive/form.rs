//! In which form an agent's calls come over a connection that kas made. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::ReceptiveForm;

/// How long it counts that an agent knows a form, after which it is asked for our own again.
const KNOWN_TTL: Duration = Duration::from_secs(3600);

/// A form that a connection can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One call carries a connection of the agent's.
    Attach,
    /// Each call comes by a tunnel.
    ReverseTunnel,
}

impl Form {
    /// As in the configuration.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::ReverseTunnel => "reverse_tunnel",
        }
    }
}

/// The forms that are tried with one agent.
#[derive(Debug)]
pub(super) struct Forms {
    setting: ReceptiveForm,
    known: Option<(Form, Instant)>,
}

impl Forms {
    pub(super) fn new(setting: ReceptiveForm) -> Self {
        Self {
            setting,
            known: None,
        }
    }

    /// What to try, and what then if the agent does not know that.
    pub(super) fn choice(&self) -> (Form, Option<Form>) {
        let known = self.known.filter(|(_, since)| since.elapsed() < KNOWN_TTL);
        match (self.setting, known) {
            (ReceptiveForm::Attach, _) => (Form::Attach, None),
            (ReceptiveForm::ReverseTunnel, _) => (Form::ReverseTunnel, None),
            (ReceptiveForm::Auto, Some((Form::ReverseTunnel, _))) => {
                (Form::ReverseTunnel, Some(Form::Attach))
            }
            (ReceptiveForm::Auto, Some((Form::Attach, _)) | None) => {
                (Form::Attach, Some(Form::ReverseTunnel))
            }
        }
    }

    /// Notes which one the agent knows.
    pub(super) fn is(&mut self, form: Form) {
        match self.known {
            Some((known, since)) if known == form && since.elapsed() < KNOWN_TTL => {}
            Some(_) | None => self.known = Some((form, Instant::now())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_form_that_an_agent_knows_is_tried_first_for_an_hour() {
        let mut forms = Forms::new(ReceptiveForm::Auto);
        assert_eq!(forms.choice(), (Form::Attach, Some(Form::ReverseTunnel)));

        forms.is(Form::ReverseTunnel);
        assert_eq!(forms.choice(), (Form::ReverseTunnel, Some(Form::Attach)));
        tokio::time::advance(KNOWN_TTL / 2).await;
        forms.is(Form::ReverseTunnel);
        tokio::time::advance(KNOWN_TTL / 2).await;

        assert_eq!(forms.choice(), (Form::Attach, Some(Form::ReverseTunnel)));
    }

    #[test]
    fn a_form_that_is_configured_is_the_only_one() {
        let mut forms = Forms::new(ReceptiveForm::ReverseTunnel);
        forms.is(Form::ReverseTunnel);

        assert_eq!(forms.choice(), (Form::ReverseTunnel, None));
        let forms = Forms::new(ReceptiveForm::Attach);
        assert_eq!(forms.choice(), (Form::Attach, None));
    }
}
