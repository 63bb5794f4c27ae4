package verdict

import (
	"testing"

	"github.com/prometheus/common/model"
)

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		labels     model.Metric
		bad, aside bool
	}{
		{model.Metric{"response_code": "200"}, false, false},
		{model.Metric{"response_code": "404"}, false, false},
		{model.Metric{"response_code": "500"}, true, false},
		{model.Metric{"response_code": "503", "response_flags": "UH"}, true, false},
		{model.Metric{"response_code": "0", "response_flags": "UF"}, true, false},
		{model.Metric{"response_code": "0", "response_flags": "DC"}, true, true}, // the caller went away
		{model.Metric{"response_code": "200", "grpc_response_status": "0"}, false, false},
		{model.Metric{"response_code": "200", "grpc_response_status": "5"}, false, false}, // NOT_FOUND
		{model.Metric{"response_code": "200", "grpc_response_status": "14"}, true, false}, // UNAVAILABLE
	} {
		if isError(c.labels) != c.bad || callerLeft(c.labels) != c.aside {
			t.Errorf("%v: an error %v, set aside %v", c.labels, isError(c.labels), callerLeft(c.labels))
		}
	}
}
