package kubelet

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// probe makes the process's probes: startup first, then liveness (until life ends) and readiness
// (until readiness ends).
func (p *process) probe(readiness, life context.Context) {
	spec := p.c.spec
	if spec.StartupProbe != nil {
		if !p.untilStarted(life, spec.StartupProbe) {
			return
		}
		p.c.change(func(s *corev1.ContainerStatus) {
			if life.Err() == nil { // the process is still this one
				started := true
				s.Started, s.Ready = &started, spec.ReadinessProbe == nil
			}
		})
	}
	if spec.LivenessProbe != nil {
		go p.untilDead(life, spec.LivenessProbe)
	}
	if spec.ReadinessProbe != nil {
		p.watchReadiness(readiness, spec.ReadinessProbe)
	}
}

// untilStarted tells whether the startup probe succeeded; when it failed too often it asks for a
// restart.
func (p *process) untilStarted(ctx context.Context, probe *corev1.Probe) (started bool) {
	p.repeat(ctx, "Startup", probe, func(healthy bool) bool {
		started = healthy
		if !healthy {
			p.restart(fmt.Sprintf("Container %s failed startup probe, will be restarted", p.c.spec.Name))
		}
		return false
	})
	return started
}

func (p *process) untilDead(ctx context.Context, probe *corev1.Probe) {
	p.repeat(ctx, "Liveness", probe, func(healthy bool) bool {
		if !healthy {
			p.restart(fmt.Sprintf("Container %s failed liveness probe, will be restarted", p.c.spec.Name))
		}
		return healthy
	})
}

func (p *process) watchReadiness(ctx context.Context, probe *corev1.Probe) {
	p.repeat(ctx, "Readiness", probe, func(healthy bool) bool {
		p.c.change(func(s *corev1.ContainerStatus) {
			if ctx.Err() == nil { // the process is still this one
				s.Ready = healthy
			}
		})
		return true
	})
}

func (p *process) restart(why string) {
	select {
	case p.unwell <- why:
	default:
	}
}

// repeat makes a probe at its period and calls result whenever the outcome has held for its
// threshold and is new, until result returns false, the process ends or ctx ends.
func (p *process) repeat(ctx context.Context, name string, probe *corev1.Probe, result func(healthy bool) bool) {
	delay := time.NewTimer(time.Duration(probe.InitialDelaySeconds) * time.Second)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-p.exited:
		return
	case <-ctx.Done():
		return
	}
	ticker := time.NewTicker(time.Duration(max(probe.PeriodSeconds, 1)) * time.Second)
	defer ticker.Stop()
	var reported, healthy, known bool
	run := int32(0)
	for {
		err := check(ctx, p.c.pod.current().Status.PodIP, p.c.spec, probe)
		if ctx.Err() != nil {
			return
		}
		if ok := err == nil; run == 0 || ok != healthy {
			healthy, run = ok, 0
		}
		run++
		if err != nil {
			p.c.event(corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %v", name, err)
		}
		enough := healthy && run >= max(probe.SuccessThreshold, 1) || !healthy && run >= max(probe.FailureThreshold, 1)
		if enough && (!known || reported != healthy) {
			known, reported = true, healthy
			if !result(healthy) {
				return
			}
		}
		select {
		case <-ticker.C:
		case <-p.exited:
			return
		case <-ctx.Done():
			return
		}
	}
}

// check makes one probe.
func check(ctx context.Context, ip string, spec *corev1.Container, probe *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(probe.TimeoutSeconds, 1))*time.Second)
	defer cancel()
	switch {
	case probe.HTTPGet != nil:
		return httpGet(ctx, ip, spec, probe.HTTPGet)
	case probe.TCPSocket != nil:
		port, err := portOf(spec, probe.TCPSocket.Port)
		if err != nil {
			return err
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(or(probe.TCPSocket.Host, ip), port))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return fmt.Errorf("this kind of probe is not supported here") // settingsOf refuses it before
}

// probes are made on connections of their own, do not follow redirects and trust any certificate.
var prober = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func httpGet(ctx context.Context, ip string, spec *corev1.Container, get *corev1.HTTPGetAction) error {
	port, err := portOf(spec, get.Port)
	if err != nil {
		return err
	}
	target, err := url.Parse(get.Path) // may carry a query
	if err != nil {
		return err
	}
	target.Scheme, target.Host = "http", net.JoinHostPort(or(get.Host, ip), port)
	if get.Scheme == corev1.URISchemeHTTPS {
		target.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "kube-probe/1.37")
	for _, h := range get.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			request.Host = h.Value
			continue
		}
		request.Header.Add(h.Name, h.Value)
	}
	response, err := prober.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", response.StatusCode)
	}
	return nil
}

func portOf(spec *corev1.Container, port intstr.IntOrString) (string, error) {
	if port.Type == intstr.Int {
		return strconv.Itoa(port.IntValue()), nil
	}
	for _, p := range spec.Ports {
		if p.Name == port.StrVal {
			return strconv.Itoa(int(p.ContainerPort)), nil
		}
	}
	return "", fmt.Errorf("container %s has no port named %q", spec.Name, port.StrVal)
}

func or(value, otherwise string) string {
	if value != "" {
		return value
	}
	return otherwise
}
