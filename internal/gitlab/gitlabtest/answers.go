package gitlabtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// page answers one page of a list, with GitLab's headers for it.
func page(w http.ResponseWriter, r *http.Request, rows []map[string]any) {
	number, size := positive(r.URL.Query().Get("page"), 1), min(positive(r.URL.Query().Get("per_page"), 20), 100)
	pages := max(1, (len(rows)+size-1)/size)
	h := w.Header()
	h.Set("X-Total", strconv.Itoa(len(rows)))
	h.Set("X-Total-Pages", strconv.Itoa(pages))
	h.Set("X-Per-Page", strconv.Itoa(size))
	h.Set("X-Page", strconv.Itoa(number))
	h.Set("X-Next-Page", "")
	h.Set("X-Prev-Page", "")
	if number < pages {
		h.Set("X-Next-Page", strconv.Itoa(number+1))
		next := *r.URL
		query := next.Query()
		query.Set("page", strconv.Itoa(number+1))
		next.RawQuery = query.Encode()
		h.Set("Link", fmt.Sprintf(`<http://%s%s>; rel="next"`, r.Host, next.RequestURI()))
	}
	if number > 1 {
		h.Set("X-Prev-Page", strconv.Itoa(number-1))
	}
	from := min((number-1)*size, len(rows))
	write(w, http.StatusOK, rows[from:min(from+size, len(rows))])
}

func positive(text string, otherwise int) int {
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return n
	}
	return otherwise
}

func refuse(w http.ResponseWriter, message string) {
	write(w, http.StatusBadRequest, map[string]any{"message": map[string]any{"base": []string{message}}})
}

func fail(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

func write(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
