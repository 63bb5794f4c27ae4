package gitops

import "context"

// argo is Argo CD's application controller.
type argo struct{ cluster }

func (a *argo) String() string { return "Argo CD" }

// Hold: no annotation on a live object makes Argo CD leave it alone; what its Application says does.
func (a *argo) Hold() (string, string) { return "", "" }

func (a *argo) Check(context.Context, []Object) ([]string, error) { return nil, nil }

func (a *argo) Fetch(context.Context, []Object) (string, error) { return "", nil }

func (a *argo) Apply(context.Context, []Object) error { return nil }
