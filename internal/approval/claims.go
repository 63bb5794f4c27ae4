package approval

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Claims are what an ID token of GitLab's says of the job that it was made for. GitLab writes numbers and truth values as
// text; what is missing is "". A merge request from a fork has the fork in Project, and where it runs in JobProject.
type Claims struct {
	ID       string // jti
	Issuer   string
	IssuedAt time.Time
	Expiry   time.Time

	ProjectID, Project                  string
	JobProjectID, JobProject            string // since GitLab 18.4; "" before
	UserID, UserLogin, UserEmail        string
	Identities                          []Identity // when the user has chosen so
	Pipeline, Source, Job               string
	Ref, RefType, RefPath, RefProtected string
	Environment, EnvironmentProtected   string
	EnvironmentAction                   string
}

// Identity is what a user is at a provider of identities: for a person who signs in with GitHub, the number there.
type Identity struct {
	Provider  string `json:"provider"`
	ExternUID string `json:"extern_uid"`
}

// wireClaims are the claims as GitLab writes them (lib/gitlab/ci/jwt.rb, jwt_v2.rb, user_project_token_claims.rb).
type wireClaims struct {
	ID       string `json:"jti"`
	Issuer   string `json:"iss"`
	IssuedAt int64  `json:"iat"`
	Before   int64  `json:"nbf"`
	Expiry   int64  `json:"exp"`

	ProjectID         string     `json:"project_id"`
	Project           string     `json:"project_path"`
	JobProjectID      string     `json:"job_project_id"`
	JobProject        string     `json:"job_project_path"`
	UserID            string     `json:"user_id"`
	UserLogin         string     `json:"user_login"`
	UserEmail         string     `json:"user_email"`
	Identities        []Identity `json:"user_identities"`
	Pipeline          string     `json:"pipeline_id"`
	Source            string     `json:"pipeline_source"`
	Job               string     `json:"job_id"`
	Ref               string     `json:"ref"`
	RefType           string     `json:"ref_type"`
	RefPath           string     `json:"ref_path"`
	RefProtected      string     `json:"ref_protected"`
	Environment       string     `json:"environment"`
	Protected         string     `json:"environment_protected"`
	EnvironmentAction string     `json:"environment_action"`
}

// leeway is how far the clocks of GitLab and of the runner may differ.
const leeway = time.Minute

// parseClaims reads the claims of a token whose signature is good, and holds its times against now.
func parseClaims(payload []byte, now time.Time) (*Claims, error) {
	var w wireClaims
	if err := json.Unmarshal(payload, &w); err != nil {
		return nil, fmt.Errorf("its claims are not GitLab's: %w", err)
	}
	issued, before, expiry := time.Unix(w.IssuedAt, 0), time.Unix(w.Before, 0), time.Unix(w.Expiry, 0)
	switch {
	case w.IssuedAt == 0 || w.Expiry == 0:
		return nil, errors.New("it does not say when it was issued and when it expires")
	case now.After(expiry.Add(leeway)):
		return nil, fmt.Errorf("it expired at %s", expiry.UTC().Format(time.RFC3339))
	case now.Before(before.Add(-leeway)), now.Before(issued.Add(-leeway)):
		return nil, fmt.Errorf("it is not valid before %s", latest(issued, before).UTC().Format(time.RFC3339))
	}
	for _, claim := range []struct{ name, value string }{
		{"jti", w.ID}, {"project_path", w.Project}, {"project_id", w.ProjectID}, {"user_id", w.UserID}, {"user_login", w.UserLogin},
		{"pipeline_id", w.Pipeline}, {"pipeline_source", w.Source}, {"job_id", w.Job}, {"ref", w.Ref},
	} {
		if claim.value == "" {
			return nil, fmt.Errorf("it has no claim %s: it is not the ID token of a job", claim.name)
		}
		if strings.ContainsFunc(claim.value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fmt.Errorf("its claim %s has control characters", claim.name)
		}
	}
	return &Claims{
		ID: w.ID, Issuer: w.Issuer, IssuedAt: issued, Expiry: expiry,
		ProjectID: w.ProjectID, Project: w.Project, JobProjectID: w.JobProjectID, JobProject: w.JobProject,
		UserID: w.UserID, UserLogin: w.UserLogin, UserEmail: w.UserEmail, Identities: w.Identities,
		Pipeline: w.Pipeline, Source: w.Source, Job: w.Job,
		Ref: w.Ref, RefType: w.RefType, RefPath: w.RefPath, RefProtected: w.RefProtected,
		Environment: w.Environment, EnvironmentProtected: w.Protected, EnvironmentAction: w.EnvironmentAction,
	}, nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
